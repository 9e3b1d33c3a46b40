// The page over https://, and its rooms over wss://, in a browser.
import assert from 'node:assert/strict'
import { rm } from 'node:fs/promises'
import { after, before, describe, test } from 'node:test'
import { launch, NO_BROWSER, openTab, people, saved, text } from './lib/browser.mjs'
import { authority, install } from './lib/certificates.mjs'
import { freePort, metric, OURS_ONLY, startServer, tempDir } from './lib/server.mjs'
import { until } from './lib/until.mjs'

describe('the page over TLS', { concurrency: false, skip: NO_BROWSER || OURS_ONLY, timeout: 150_000 }, () => {
  let folder
  let files
  let next
  let server
  let browser
  let origin
  before(async () => {
    folder = await tempDir('page-tls')
    const ca = await authority(folder)
    const first = await ca.issue('first')
    next = await ca.issue('next')
    files = { pem: `${folder}/live.pem`, key: `${folder}/live.key` }
    await install(first, files)
    const args = ['--tls-certificate', files.pem, '--tls-key', files.key]
    server = await startServer({ control: await freePort(), cores: 2, args })
    origin = `https://localhost:${server.port}`
    browser = await launch([first.pemText, next.pemText])
  })
  after(async () => {
    await browser?.close()
    await server?.stop()
    await rm(folder, { recursive: true, force: true })
  })

  test('two tabs write together', async (t) => {
    const ada = await openTab(t, browser, origin, 'tabs', 'Ada Lovelace')
    const grace = await openTab(t, browser, origin, 'tabs', 'Grace Hopper')
    await Promise.all([people(ada, 2), people(grace, 2)])
    await ada.getByTestId('document').click()
    await ada.keyboard.type('A record is durable once it is on disk.')
    await grace.getByText('once it is on disk.').waitFor()
    await ada.keyboard.press('Enter')
    await grace.getByTestId('document').locator('p').first().click()
    await grace.keyboard.press('End')
    await Promise.all([ada.keyboard.type('Ada writes this line.'), grace.keyboard.type(' Grace goes on with hers.')])
    await Promise.all([saved(ada), saved(grace)])
    await until('both to show the same', async () => (await text(ada)) === (await text(grace)))
    assert.equal(await text(ada), 'A record is durable once it is on disk. Grace goes on with hers.\nAda writes this line.')

    // A renewal under open tabs: they go on, and who comes then is shown the new one.
    await install(next, files)
    server.signal('SIGHUP')
    await until('the renewal', () => /shown the new one/.test(server.log))
    const late = await openTab(t, browser, origin, 'tabs', 'Linus')
    await Promise.all([people(ada, 3), people(late, 3)])
    await grace.keyboard.type(' And on.')
    await until('all to show the same', async () => (await text(late)) === (await text(ada)) && /And on\./.test(await text(late)))
    for (const page of [ada, grace, late]) {
      assert.deepEqual(page.errors, [])
      assert.deepEqual([...new Set(page.sockets)], [`wss://localhost:${server.port}/tabs`])
    }
    assert.ok((await metric(server, 'collabblocks_tls_handshakes_total')) >= 3)
    await grace.context().close()
    await people(ada, 2)
  })

  test('a browser that does not know the certificate is shown nothing', async (t) => {
    const strange = await launch()
    t.after(() => strange.close())
    await assert.rejects(strange.newPage().then((page) => page.goto(origin)), /ERR_CERT_AUTHORITY_INVALID/)
  })
})

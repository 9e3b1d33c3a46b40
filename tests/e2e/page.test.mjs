// Two browser tabs on the page that the server serves.
import assert from 'node:assert/strict'
import { rm } from 'node:fs/promises'
import { after, before, describe, test } from 'node:test'
import { launch, NO_BROWSER, openTab, people, saved, screenshot, text } from './lib/browser.mjs'
import { freePort, OURS_ONLY, startServer, tempDir } from './lib/server.mjs'
import { until } from './lib/until.mjs'

describe('the page', { concurrency: false, skip: NO_BROWSER, timeout: 150_000 }, () => {
  let server
  let browser
  let data
  let port
  before(async () => {
    data = await tempDir('page')
    port = await freePort()
    server = await startServer({ data, port })
    browser = await launch()
  })
  after(async () => {
    await browser?.close()
    await server?.stop()
    await rm(data, { recursive: true, force: true })
  })

  const tab = (t, room, name, options) => openTab(t, browser, server.http, room, name, options)
  const roomIs = (page, name) => page.getByTestId('room-name').getByText(name, { exact: true }).waitFor({ timeout: 10_000 })

  test('two tabs write together and see each other', async (t) => {
    const ada = await tab(t, 'tabs', 'Ada Lovelace')
    const grace = await tab(t, 'tabs', 'Grace Hopper', { colorScheme: 'dark' })
    await Promise.all([people(ada, 2), people(grace, 2)])

    await ada.getByTestId('document').click()
    await ada.keyboard.type('# What the log must never forget\nA record is durable once it is on disk.')
    await ada.keyboard.press('Enter')
    await grace.getByTestId('document').locator('p').first().click()
    await grace.keyboard.press('End')
    await Promise.all([
      ada.keyboard.type('Ada writes this line while Grace writes hers.'),
      grace.keyboard.type(' Nothing says so sooner.'),
    ])
    await Promise.all([saved(ada), saved(grace)])
    await until('both to show the same', async () => (await text(ada)) === (await text(grace)))
    assert.match(await text(ada), /on disk\. Nothing says so sooner\.\nAda writes this line while Grace writes hers\./)
    assert.equal(await ada.getByTestId('document').locator('h1').innerText(), 'What the log must never forget')

    assert.equal(await ada.getByTestId('caret').innerText().then((label) => label.replaceAll('\u2060', '').trim()), 'Grace Hopper')
    assert.equal(await grace.getByTestId('caret').innerText().then((label) => label.replaceAll('\u2060', '').trim()), 'Ada Lovelace')
    assert.match(await ada.getByTestId('people').getAttribute('aria-label'), /Ada Lovelace \(you\), Grace Hopper/)
    await ada.locator('[data-testid=status][data-state=saved]').waitFor()
    assert.equal(await ada.getByTestId('status-text').innerText(), 'Saved')
    t.diagnostic(await screenshot(ada, 'page-light'))
    t.diagnostic(await screenshot(grace, 'page-dark'))

    await grace.context().close()
    await people(ada, 1)
    assert.equal(await ada.getByTestId('caret').count(), 0)
    assert.deepEqual(ada.errors, [])
  })

  test('who comes without a name gets one that nobody has, and keeps it and its colour when others leave', async (t) => {
    const shown = (page) => page.getByTestId('people-list').locator('li').evaluateAll((items) => items.map((item) => [item.lastChild.textContent, item.firstChild.style.getPropertyValue('--user')]))
    const pages = []
    let first
    for (let i = 0; i < 4; i++) {
      const context = await browser.newContext()
      t.after(() => context.close())
      const page = await context.newPage()
      // Everybody draws the first name and wants the same colour, and who comes later has a lower id.
      await page.addInitScript((id) => {
        const random = crypto.getRandomValues.bind(crypto)
        crypto.getRandomValues = (array) => {
          if (array.length !== 1) return random(array)
          return array.fill(array instanceof Uint8Array ? 0 : id)
        }
      }, 1000 - 10 * i)
      await page.goto(`${server.http}/?room=names`)
      await saved(page)
      pages.push(page)
      if (i > 0) continue
      await page.waitForTimeout(1500)
      first = (await shown(page))[0]
    }
    assert.equal(first[0], 'Ada (you)')
    const distinct = (all) => new Set(all).size === all.length
    const settled = async (page, count) => {
      const list = await shown(page)
      return list.length === count && distinct(list.map(([name]) => name.replace(' (you)', ''))) && distinct(list.map(([, color]) => color)) && list
    }
    for (const page of pages) await until('names and colours to differ', () => settled(page, 4))
    await pages[0].waitForTimeout(1500)
    const before = await Promise.all(pages.map(async (page) => (await shown(page))[0]))
    assert.deepEqual(before[0], first)
    await pages[0].context().close()
    await pages[2].context().close()
    for (const i of [1, 3]) {
      await until('the others to be gone', () => settled(pages[i], 2))
      assert.deepEqual((await shown(pages[i]))[0], before[i])
      await pages[i].getByTestId('people').click()
      assert.equal(`${await pages[i].getByTestId('name-input').inputValue()} (you)`, before[i][0])
    }
  })

  test('on a phone nothing is cut off', async (t) => {
    const phone = await tab(t, 'tabs', 'Linus', { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true, deviceScaleFactor: 2 })
    assert.equal(await phone.evaluate('document.documentElement.scrollWidth'), 360)
    for (const id of ['room-button', 'people', 'status']) assert.ok(await phone.getByTestId(id).isVisible(), id)
    t.diagnostic(await screenshot(phone, 'page-phone'))
  })

  test('rooms: opened by name, new, refused, recent', async (t) => {
    const page = await tab(t, 'first room', 'Ada')
    await roomIs(page, 'first room')
    await page.getByTestId('document').click()
    await page.keyboard.type('in the first')
    await saved(page)

    await page.getByTestId('room-button').click()
    await page.getByTestId('room-input').fill('api/anything')
    await page.getByTestId('room-open').click()
    await page.getByText('belong to the server').waitFor()
    await page.getByTestId('room-input').fill('second/ü?#')
    await page.getByTestId('room-open').click()
    await roomIs(page, 'second/ü?#')
    await saved(page)
    assert.equal((await text(page)).trim(), '')

    await page.getByTestId('room-button').click()
    await page.getByTestId('new-room').click()
    await page.waitForURL(/\?room=[a-z]+-[a-z]+-\d{4}$/)
    await saved(page)

    await page.getByTestId('room-button').click()
    await page.getByTestId('recent-room').filter({ hasText: 'first room' }).click()
    await page.getByText('in the first').waitFor()
    await roomIs(page, 'first room')
    await page.evaluate('history.go(-2)')
    await roomIs(page, 'second/ü?#')
    assert.deepEqual(page.errors, [])
  })

  test('an address that names no room opens none, and the picker opens one', async (t) => {
    const page = await (await browser.newContext()).newPage()
    t.after(() => page.context().close())
    const sockets = []
    page.on('websocket', (socket) => sockets.push(new URL(socket.url()).pathname))
    const refused = { 'api/x': 'belong to the server', ['n'.repeat(600)]: 'too long', '': 'Type a name', 'a//b': 'between slashes' }
    for (const [room, problem] of Object.entries(refused)) {
      await page.goto(`${server.http}/?room=${room}`)
      await page.getByTestId('notice').getByText(problem).waitFor()
      assert.equal(await page.getByTestId('document').count(), 0)
      for (const id of ['people', 'status']) assert.ok(await page.getByTestId(id).isHidden(), id)
    }
    assert.deepEqual(sockets, [])

    await page.getByRole('button', { name: 'Open a room' }).click()
    await page.getByTestId('room-input').fill('after a refusal')
    await page.getByTestId('room-open').click()
    await saved(page)
    await roomIs(page, 'after a refusal')
    assert.ok(await page.getByTestId('notice').isHidden())
    assert.ok(await page.getByTestId('status').isVisible())
    await page.evaluate('history.back()')
    await page.getByTestId('notice').getByText('between slashes').waitFor()
    assert.equal(await page.getByTestId('document').count(), 0)
    assert.deepEqual(sockets, ['/after%20a%20refusal'])

    await page.goto(server.http)
    await roomIs(page, 'welcome')
  })

  test('health and metrics are a click away', { skip: OURS_ONLY }, async (t) => {
    const page = await tab(t, 'links', 'Ada')
    for (const id of ['link-health', 'link-metrics']) {
      const response = await page.request.get(new URL(await page.getByTestId(id).getAttribute('href'), server.http).href)
      assert.equal(response.status(), 200, id)
    }
  })

  test('without a network it says at once that it is offline, and saves when there is one', async (t) => {
    const page = await (await browser.newContext()).newPage()
    t.after(() => page.context().close())
    // Without a network nothing passes, and what was lost on the old connection does not come later.
    let connections = 0
    let network = true
    await page.routeWebSocket(/\/no-network$/, (socket) => {
      connections++
      let lost = false
      const beyond = socket.connectToServer()
      const pass = (to) => (message) => {
        lost ||= !network
        if (!lost) to.send(message)
      }
      socket.onMessage(pass(beyond))
      beyond.onMessage(pass(socket))
    })
    await page.goto(`${server.http}/?room=no-network`)
    await saved(page)
    const other = await tab(t, 'no-network', 'Grace')
    await people(page, 2)
    network = false
    await page.context().setOffline(true)
    await page.locator('html[data-durability=offline]').waitFor({ state: 'attached', timeout: 2000 })
    assert.equal(await page.getByTestId('status-text').innerText(), 'Offline')
    await page.getByTestId('document').click()
    await page.keyboard.type('typed without a network')
    await page.getByTestId('status-text').getByText('Offline, not saved', { exact: true }).waitFor({ timeout: 2000 })
    network = true
    await page.context().setOffline(false)
    await saved(page)
    assert.equal(connections, 2)
    await other.getByText('typed without a network').waitFor()
    await Promise.all([people(page, 2), people(other, 2)])

    // The old connection still works, and takes the farewell before the new one is there.
    await page.context().setOffline(true)
    await page.context().setOffline(false)
    await until('a third connection', () => connections === 3)
    await saved(page)
    await page.waitForTimeout(500)
    await Promise.all([people(page, 2), people(other, 2)])
  })

  test('a room closed for good says so and lets one try again', async (t) => {
    const page = await (await browser.newContext()).newPage()
    t.after(() => page.context().close())
    let refuse = true
    await page.routeWebSocket(/\/revoked$/, (socket) => {
      if (refuse) socket.close({ code: 4403, reason: 'access was withdrawn' })
      else socket.connectToServer()
    })
    await page.goto(`${server.http}/?room=revoked`)
    await page.getByText('The server closed this room: access was withdrawn.').waitFor()
    assert.equal(await page.locator('html').getAttribute('data-durability'), 'closed')
    refuse = false
    await page.getByRole('button', { name: 'Try again' }).click()
    await saved(page)
    assert.ok(await page.getByTestId('notice').isHidden())
  })

  test('what it shows as saved survives kill -9, what is typed offline arrives later', { skip: OURS_ONLY }, async (t) => {
    const page = await tab(t, 'crash', 'Ada')
    await page.getByTestId('document').click()
    await page.keyboard.type('saved before the crash')
    await saved(page)
    await server.kill()
    await page.locator('html[data-durability=offline]').waitFor({ state: 'attached' })
    await page.keyboard.type(', typed offline')
    assert.equal(await page.locator('html').getAttribute('data-unsaved'), 'true')
    assert.match(await page.getByTestId('status-text').innerText(), /not saved/)

    server = await startServer({ data, port })
    const early = await (await browser.newContext()).newPage()
    t.after(() => early.context().close())
    await early.goto(`${server.http}/?room=crash`)
    await early.getByText('saved before the crash').waitFor()
    await early.getByText('saved before the crash, typed offline').waitFor()
    await saved(page)
    assert.equal(await page.locator('html').getAttribute('data-unsaved'), 'false')

    // Nobody who has it is left to bring it back.
    await server.kill()
    await Promise.all([page.context().close(), early.context().close()])
    server = await startServer({ data, port })
    const late = await (await browser.newContext()).newPage()
    t.after(() => late.context().close())
    await late.goto(`${server.http}/?room=crash`)
    await late.getByText('saved before the crash, typed offline').waitFor()
  })
})

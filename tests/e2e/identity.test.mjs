// A server with an authenticator of its embedder's: the example in server/examples.
import assert from 'node:assert/strict'
import { rm } from 'node:fs/promises'
import { after, before, describe, test } from 'node:test'
import WebSocket from 'ws'
import { authority } from './lib/certificates.mjs'
import { connect, leave, synced, VERSIONS } from './lib/providers.mjs'
import { EMBEDDER, freePort, OURS_ONLY, startServer, tempDir } from './lib/server.mjs'
import { until } from './lib/until.mjs'

describe('identity', { concurrency: false, skip: OURS_ONLY }, () => {
  let server
  before(async () => {
    server = await startServer({ bin: EMBEDDER, cores: 2 })
  })
  after(() => server?.stop())

  async function open(t, version, room, token, options = {}) {
    const params = token === undefined ? {} : { token }
    const client = await connect(version, server.ws, room, { ...options, provider: { params } })
    t.after(() => leave(client))
    return client
  }

  /** The HTTP answer to an upgrade that is refused. */
  function refusal(path) {
    return new Promise((resolve, reject) => {
      const socket = new WebSocket(`${server.ws}${path}`)
      socket.on('open', () => reject(new Error(`${path} was let in`)))
      socket.on('error', () => {})
      socket.on('unexpected-response', (_, response) => {
        let text = ''
        response.setEncoding('utf8').on('data', (more) => {
          text += more
        })
        response.on('end', () => resolve({ status: response.statusCode, headers: response.headers, text }))
      })
    })
  }

  test('the answer says why, before the upgrade', async () => {
    const missing = await refusal('/room')
    assert.equal(missing.status, 401)
    assert.equal(missing.headers['www-authenticate'], 'Bearer')
    assert.match(missing.text, /sign in and connect again/)
    const forbidden = await refusal('/private/room?token=reader')
    assert.equal(forbidden.status, 403)
    assert.match(forbidden.text, /ask its owner/)
    const lost = await refusal('/room?token=lost')
    assert.equal(lost.status, 503)
    assert.equal(lost.headers['retry-after'], '1')
    assert.match(lost.text, /could not be found out who you are/, 'at once, not when its time is over')
  })

  for (const version of VERSIONS) {
    test(`${version}: who is denied never gets in, and tries again`, { timeout: 60_000 }, async (t) => {
      const room = `denied-${version}`
      const denied = await open(t, version, room, 'wrong')
      let closed = 0
      let opened = false
      denied.provider.on('connection-close', () => (closed += 1))
      denied.provider.on('status', ({ status }) => (opened ||= status === 'connected'))
      denied.doc.getText('t').insert(0, 'smuggled')
      await until('two tries', () => closed >= 2, 30_000)
      assert.equal(opened, false)
      const writer = await open(t, version, room, 'writer')
      await synced(writer)
      assert.equal(writer.doc.getText('t').toString(), '')
    })

    test(`${version}: who may only read hears all, is present, and changes nothing`, { timeout: 60_000 }, async (t) => {
      const room = `read-${version}`
      const warnings = t.mock.method(console, 'warn', () => {})
      const writer = await open(t, version, room, 'writer')
      writer.doc.getText('t').insert(0, 'theirs')
      const reader = await open(t, version, room, 'reader')
      await synced(reader)
      await until('the text', () => reader.doc.getText('t').toString() === 'theirs')
      reader.awareness.setLocalStateField('name', 'bob')
      reader.doc.getText('t').insert(0, 'own ')
      reader.doc.getText('t').insert(0, 'very ')
      await until('the warning', () => warnings.mock.calls.length > 0)
      assert.match(String(warnings.mock.calls[0].arguments[0]), /Permission denied[\s\S]*read-only/)
      await until('to be seen', () => [...writer.awareness.getStates().values()].some((state) => state.name === 'bob'))
      writer.doc.getText('t').insert(6, ', still')
      await until('later edits', () => reader.doc.getText('t').toString().endsWith('theirs, still'))
      assert.equal(writer.doc.getText('t').toString(), 'theirs, still')
      assert.equal(warnings.mock.calls.length, 1, 'told once')
      const late = await open(t, version, room, 'writer')
      await synced(late)
      await until('only what was written', () => late.doc.getText('t').toString() === 'theirs, still')
    })
  }

  test('a client certificate is shown to the authenticator', { timeout: 60_000 }, async (t) => {
    const folder = await tempDir('identity')
    t.after(() => rm(folder, { recursive: true, force: true }))
    const ca = await authority(folder)
    const [served, own] = [await ca.issue('server'), await ca.issue('client')]
    const args = ['--tls-certificate', served.pem, '--tls-key', served.key, '--tls-client-ca', ca.path]
    const secured = await startServer({ bin: EMBEDDER, control: await freePort(), args })
    t.after(() => secured.stop())
    const WebSocketPolyfill = class extends WebSocket {
      constructor(url, protocols) {
        super(url, protocols, { ca: ca.pem, cert: own.pemText, key: own.keyText })
      }
    }
    const client = await connect('v3', `wss://localhost:${secured.port}`, 'room', { provider: { WebSocketPolyfill } })
    t.after(() => leave(client))
    await synced(client)
  })

  test('an answer that takes its time is waited for', async (t) => {
    const client = await open(t, 'v3', 'later', 'later')
    await synced(client)
  })

  test('v3: access that ends stops the provider for good', { timeout: 60_000 }, async (t) => {
    const client = await open(t, 'v3', 'brief-v3', 'brief')
    await synced(client)
    let code
    client.provider.on('connection-close', (event) => (code ??= event?.code))
    await until('the end', () => code !== undefined, 15_000)
    assert.equal(code, 4401)
    await until('to stop', () => client.provider.shouldConnect === false)
  })

  for (const version of ['v2', 'v4']) {
    test(`${version}: when access has ended the provider comes back, and shows its token again`, { timeout: 60_000 }, async (t) => {
      const client = await open(t, version, `brief-${version}`, 'brief')
      await synced(client)
      const codes = []
      client.provider.on('connection-close', (event) => codes.push(event?.code))
      await until('the end', () => codes.length > 0, 15_000)
      assert.equal(codes[0], 4401)
      await until('to be back', () => client.provider.wsconnected, 15_000)
    })
  }
})

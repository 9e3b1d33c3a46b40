// TLS as clients meet it: the published providers over wss://, the page over https://, resumption,
// client certificates, certificates that change while connections are open.
import assert from 'node:assert/strict'
import { rm, writeFile } from 'node:fs/promises'
import { Agent, request } from 'node:https'
import { connect as connectTcp } from 'node:net'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect as connectTls } from 'node:tls'
import WebSocket from 'ws'
import { authority, install } from './lib/certificates.mjs'
import { connect, leave, synced, VERSIONS } from './lib/providers.mjs'
import { freePort, metric, OURS_ONLY, startServer, tempDir } from './lib/server.mjs'
import { until } from './lib/until.mjs'

describe('tls', { concurrency: false, skip: OURS_ONLY }, () => {
  let folder
  let ca
  let served
  before(async () => {
    folder = await tempDir('tls')
    ca = await authority(folder)
    served = await ca.issue('server')
  })
  after(() => folder && rm(folder, { recursive: true, force: true }))

  async function start(t, args = [], options = {}) {
    const files = options.files ?? served
    const tls = ['--tls-certificate', files.pem, '--tls-key', files.key]
    const server = await startServer({ ...options, control: await freePort(), args: [...tls, ...args] })
    t.after(() => server.stop())
    return Object.assign(server, { wss: `wss://localhost:${server.port}` })
  }

  /** A WebSocket for providers, with these settings of TLS. */
  const trusting = (tls) =>
    class extends WebSocket {
      constructor(url, protocols) {
        super(url, protocols, { ca: ca.pem, ...tls })
      }
    }

  async function join2(t, server, version, room, tls = {}) {
    const client = await connect(version, server.wss, room, { provider: { WebSocketPolyfill: trusting(tls) } })
    t.after(() => leave(client))
    return client
  }

  /** A TLS connection, or the error that it ended with. */
  function shake(server, tls = {}) {
    return new Promise((resolve, reject) => {
      const socket = connectTls({ port: server.port, host: 'localhost', ca: ca.pem, servername: 'localhost', ...tls })
      socket.once('secureConnect', () => resolve(socket))
      socket.once('error', reject)
    })
  }

  /** The end of a connection on which a server answers, and what it said. */
  const heard = (socket) =>
    new Promise((resolve) => {
      let text = ''
      socket.on('data', (bytes) => {
        text += bytes
      })
      socket.on('error', (error) => resolve({ text, error }))
      socket.on('close', () => resolve({ text }))
    })

  const text = ({ Y, doc }, name = 't') => (doc.getText ? doc.getText(name) : doc.get(name, Y.Text))

  for (const version of VERSIONS) {
    test(`two clients of ${version} over wss`, async (t) => {
      const server = await start(t, [], { cores: 2 })
      for (const room of ['room-1', 'room-2', 'room-3', 'room-4', 'room-5', 'room-6']) {
        const one = await join2(t, server, version, room)
        const two = await join2(t, server, version, room)
        await Promise.all([synced(one), synced(two)])
        text(one).insert(0, `hallo ${room} `.repeat(5_000))
        await until('the edit', () => text(two).toString() === text(one).toString())
        text(two).insert(0, 'back')
        await until('the answer', () => text(one).toString() === text(two).toString())
      }
      const counted = (name, least) => async () => (await metric(server, name)) >= least
      await until('the handshakes', counted('collabblocks_tls_handshakes_total', 12))
      await until('handoffs under TLS', counted('collabblocks_handoffs_total', 1))
    })
  }

  test('the page, health and metrics over https, on one connection', async (t) => {
    const server = await start(t)
    const agent = new Agent({ ca: ca.pem, keepAlive: true, maxSockets: 1 })
    t.after(() => agent.destroy())
    const get = (path) =>
      new Promise((resolve, reject) => {
        const asked = request({ agent, host: 'localhost', port: server.port, path }, (response) => {
          let body = ''
          response.setEncoding('utf8').on('data', (part) => {
            body += part
          })
          response.on('end', () => resolve({ status: response.statusCode, body, reused: asked.reusedSocket }))
        })
        asked.on('error', reject).end()
      })
    const page = await get('/')
    assert.equal(page.status, 200)
    const asset = /(?:src|href)="(\/[^"]+\.js)"/.exec(page.body)[1]
    const script = await get(asset)
    assert.ok(script.status === 200 && script.body.length > 100_000 && script.reused)
    assert.equal((await get('/health/ready')).body, 'ready\n')
    assert.match((await get('/metrics')).body, /collabblocks_tls_handshakes_total/)
  })

  test('sessions are resumed, on whichever core, in TLS 1.2 and 1.3', async (t) => {
    const server = await start(t, [], { cores: 2 })
    for (const version of ['TLSv1.2', 'TLSv1.3']) {
      const only = { minVersion: version, maxVersion: version }
      const first = await shake(server, only)
      assert.equal(first.getProtocol(), version)
      assert.equal(first.isSessionReused(), false)
      const session = await new Promise((resolve) => {
        if (version === 'TLSv1.2') resolve(first.getSession())
        else first.once('session', resolve)
      })
      first.destroy()
      for (let i = 0; i < 8; i++) {
        const again = await shake(server, { ...only, session })
        assert.equal(again.isSessionReused(), true)
        again.end()
      }
    }
    await until('the count', async () => (await metric(server, 'collabblocks_tls_resumed_total')) === 16)
  })

  test('only http/1.1 is spoken', async (t) => {
    const server = await start(t)
    const socket = await shake(server, { ALPNProtocols: ['h2', 'http/1.1'] })
    assert.equal(socket.alpnProtocol, 'http/1.1')
    socket.destroy()
    await assert.rejects(shake(server, { ALPNProtocols: ['h2'] }), /no.application.protocol/i)
    await assert.rejects(shake(server, { maxVersion: 'TLSv1.1', minVersion: 'TLSv1' }))
    // Somebody else's certificate is no reason to trust it.
    await assert.rejects(shake(server, { ca: (await authority(folder, 'other')).pem }), /unable to verify|self.signed/)
  })

  test('the clear is told to speak TLS', async (t) => {
    const server = await start(t)
    const response = await fetch(`http://127.0.0.1:${server.port}/`)
    assert.equal(response.status, 400)
    assert.match(await response.text(), /^this port speaks TLS: use https:\/\/ or wss:\/\//)
  })

  test('a handshake that does not come about is ended in time', async (t) => {
    const server = await start(t, ['--limits-http-head-timeout-ms', '400'])
    for (const bytes of ['', Buffer.from([0x16, 3, 1, 2, 0, 1])]) {
      const begun = Date.now()
      const socket = connectTcp(server.port, '127.0.0.1', () => socket.write(bytes))
      socket.resume()
      await new Promise((resolve) => socket.on('close', resolve))
      assert.ok(Date.now() - begun >= 350 && Date.now() - begun < 5_000)
    }
    // A handshake that is done and no request after it is answered.
    const socket = await shake(server)
    const { text: answer } = await heard(socket)
    assert.match(answer, /^HTTP\/1.1 408 /)
  })

  test('clients show a certificate where one is asked for', async (t) => {
    const clients = await authority(folder, 'clients')
    const [good, bad] = [await clients.issue('client'), await ca.issue('stranger')]
    const server = await start(t, ['--tls-client-ca', clients.path])
    const cert = ({ pemText, keyText }) => ({ cert: pemText, key: keyText })
    const client = await join2(t, server, 'v3', 'room', cert(good))
    await synced(client)
    for (const tls of [{}, cert(bad)]) {
      // In TLS 1.3 the client is through before the server has looked.
      const ended = await shake(server, tls).then(heard, (error) => ({ error }))
      assert.match(String(ended.error), /certificate required|unknown ca|decrypt error|bad certificate/i)
    }
    await until('both to be counted', async () => (await metric(server, 'collabblocks_fronts_refused_total')) === 2)
  })

  test('a changed certificate is served without a restart', async (t) => {
    const files = { pem: join(folder, 'live.pem'), key: join(folder, 'live.key') }
    const [one, two, three] = [await ca.issue('one'), await ca.issue('two'), await ca.issue('three', 90)]
    await install(one, files)
    const server = await start(t, [], { files, cores: 2 })
    const expires = async () => (await (await fetch(`${server.http}/health/detail`)).json()).tls_certificate.not_after
    const scraped = async () => {
      const text = await (await fetch(`${server.http}/metrics`)).text()
      const [, seconds] = /^collabblocks_tls_certificate_expiry_timestamp_seconds (\d+)$/m.exec(text)
      return new Date(Number(seconds) * 1000).toISOString().replace('.000', '')
    }
    const date = (socket) => new Date(socket.getPeerCertificate().valid_to).toISOString().replace('.000', '')
    const names = async () => {
      const seen = new Set()
      for (let i = 0; i < 8; i++) {
        const socket = await shake(server)
        seen.add(socket.getPeerCertificate().subject.CN)
        socket.destroy()
      }
      return [...seen].join()
    }
    assert.equal(await names(), 'one')
    const client = await join2(t, server, 'v3', 'room')
    await synced(client)
    const old = await shake(server)
    const session = await new Promise((resolve) => old.once('session', resolve))
    old.destroy()

    await install(two, files)
    server.signal('SIGHUP')
    await until('the second', async () => (await names()) === 'two', 1_500)
    // The ticket was made with keys that are gone.
    const again = await shake(server, { session })
    assert.equal(again.isSessionReused(), false)
    again.destroy()

    // Nobody says a word; and what is there for a moment cannot be used.
    await writeFile(files.key, 'no key')
    await until('the complaint', () => /cannot be used/.test(server.log), 6_000)
    assert.equal(await names(), 'two')
    await install(three, files)
    await until('the third', async () => (await names()) === 'three', 6_000)
    const shown = await shake(server)
    assert.deepEqual([await expires(), await scraped()], [date(shown), date(shown)])
    shown.destroy()

    const peer = await join2(t, server, 'v3', 'room')
    await synced(peer)
    text(client).insert(0, 'still there')
    await until('the edit over the old connection', () => text(peer).toString() === 'still there')
  })

  test('closing says so, and a drain ends sessions with 1012', async (t) => {
    const server = await start(t)
    const ws = new (trusting({}))(`${server.wss}/room`)
    await new Promise((resolve, reject) => ws.on('open', resolve).on('error', reject))
    const closed = new Promise((resolve) => ws.on('close', (code) => resolve(code)))
    await sleep(50)
    const { code } = await server.terminate()
    assert.deepEqual([await closed, code], [1012, 0])
  })
})

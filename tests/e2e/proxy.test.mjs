// Behind the real haproxy: whom it speaks for is whom the server sees, in the clear and under TLS.
import assert from 'node:assert/strict'
import { rm } from 'node:fs/promises'
import { after, before, describe, test } from 'node:test'
import WebSocket from 'ws'
import { authority } from './lib/certificates.mjs'
import { haproxy, NO_HAPROXY } from './lib/haproxy.mjs'
import { connect, leave, synced } from './lib/providers.mjs'
import { freePort, metric, OURS_ONLY, startServer, tempDir } from './lib/server.mjs'
import { until } from './lib/until.mjs'

describe('behind haproxy', { concurrency: false, skip: OURS_ONLY || NO_HAPROXY }, () => {
  let folder
  let ca
  let served
  before(async () => {
    folder = await tempDir('proxy')
    ca = await authority(folder)
    served = await ca.issue('server')
  })
  after(() => folder && rm(folder, { recursive: true, force: true }))

  class Trusting extends WebSocket {
    constructor(url, protocols) {
      super(url, protocols, { ca: ca.pem })
    }
  }

  async function start(t, mode, tls) {
    const args = ['--proxy-mode', mode, '--proxy-trusted', '127.0.0.0/8']
    if (tls) args.push('--tls-certificate', served.pem, '--tls-key', served.key)
    const server = await startServer({ cores: 2, control: await freePort(), args })
    t.after(() => server.stop())
    return server
  }

  async function front(t, server, header, source) {
    const balancer = await haproxy(folder, { to: server.port, header, source })
    t.after(() => balancer.stop())
    return balancer
  }

  /** The status that a WebSocket's request is answered with. */
  const status = (url) =>
    new Promise((resolve, reject) => {
      const ws = new Trusting(url)
      ws.on('unexpected-response', (_, response) => resolve(response.statusCode))
      ws.on('open', () => {
        ws.terminate()
        resolve(101)
      })
      ws.on('error', reject)
    })

  for (const header of ['send-proxy', 'send-proxy-v2']) {
    for (const tls of [false, true]) {
      test(`${header}, ${tls ? 'TLS passed through' : 'in the clear'}`, async (t) => {
        const server = await start(t, 'required', tls)
        const near = await front(t, server, header)
        const url = tls ? near.wss : near.ws
        for (const room of ['room-1', 'room-2', 'room-3', 'room-4']) {
          const options = { provider: { WebSocketPolyfill: Trusting } }
          const [one, two] = [await connect('v3', url, room, options), await connect('v3', url, room, options)]
          t.after(() => [one, two].forEach(leave))
          await Promise.all([synced(one), synced(two)])
          one.doc.getText('t').insert(0, 'x'.repeat(50_000))
          await until('the edit', () => two.doc.getText('t').toString() === one.doc.getText('t').toString())
        }
        // Which core accepts a connection is for the kernel to say: some come to another than their room's.
        let more = 0
        await until('handoffs', async () => {
          if ((await metric(server, 'collabblocks_handoffs_total')) > 0) return true
          assert.equal(await status(`${url}/more-${more++}`), 101)
          return false
        })
        // The server serves its own machine only: a client of another one is refused, whatever the
        // balancer's own address is.
        const far = await front(t, server, header, '192.0.2.7')
        assert.equal(await status(`${tls ? far.wss : far.ws}/room`), 403)
        assert.equal(await status(`${url}/room`), 101)
        // Past the balancer nobody is served.
        const refused = await metric(server, 'collabblocks_fronts_refused_total')
        const past = `${tls ? 'wss' : 'ws'}://127.0.0.1:${server.port}/room`
        if (tls) await assert.rejects(status(past))
        else assert.equal(await status(past), 400)
        const counted = async () => (await metric(server, 'collabblocks_fronts_refused_total')) === refused + 1
        await until('it to be counted', counted)
      })
    }
  }

  test('where a header is optional, both are served', async (t) => {
    const server = await start(t, 'optional', false)
    const far = await front(t, server, 'send-proxy-v2', '192.0.2.7')
    assert.equal(await status(`${far.ws}/room`), 403)
    assert.equal(await status(`ws://127.0.0.1:${server.port}/room`), 101)
  })

  test('where there is none to be, it is no request', async (t) => {
    const server = await startServer()
    t.after(() => server.stop())
    const near = await front(t, server, 'send-proxy')
    assert.equal(await status(`${near.ws}/room`), 400)
  })
})

// Whatever a peer sends, it gets its clear answer, and everyone else's rooms go on.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { after, afterEach, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { HAZARDS } from './lib/hazards.mjs'
import { frames, hex, RawClient, SyncClient } from './lib/raw.mjs'
import { assertClose, CAUSES, closeCode, dial, dialRoom, expectClosed, expectRefused } from './lib/refusals.mjs'
import { assertHealthy, OURS_ONLY, startServer } from './lib/server.mjs'
import { until } from './lib/until.mjs'

const HALF_OPEN = Number(process.env.COLLABBLOCKS_HALF_OPEN ?? 500)
const RSS_GROWTH_BYTES_MAX = 256 * 1024 * 1024
/** An edit elsewhere must stay this quick whatever goes on. */
const BYSTANDER_MS_MAX = 2000

/** A frame of a client, masked with zeros. */
function frame({ first, length, payload = Buffer.alloc(0), masked = true }) {
  const size = length ?? payload.length
  const head = [first]
  const mask = masked ? 0x80 : 0
  if (size < 126) head.push(mask | size)
  else if (size < 65_536) head.push(mask | 126, size >> 8, size & 0xff)
  else head.push(mask | 127, ...new Uint8Array(new BigUint64Array([BigInt(size)]).buffer).reverse())
  if (masked) head.push(0, 0, 0, 0)
  return Buffer.concat([Buffer.from(head), payload])
}

const BAD_FRAMES = {
  textFrame: frame({ first: 0x81, payload: Buffer.from('hello') }),
  unmasked: frame({ first: 0x82, payload: Buffer.from([0, 0, 1, 0]), masked: false }),
  reservedBits: frame({ first: 0xc2, payload: Buffer.from([0, 0, 1, 0]) }),
  reservedOpcode: frame({ first: 0x83, payload: Buffer.from([0]) }),
  strayContinuation: frame({ first: 0x80, payload: Buffer.from([0]) }),
  longControl: frame({ first: 0x89, payload: Buffer.alloc(126) }),
  hugeFrame: frame({ first: 0x82, length: 100 * 1024 * 1024 }),
}

const BAD_MESSAGES = {
  truncated: Buffer.from('000205', 'hex'),
  vectorBomb: Buffer.from('00000480e1eb17', 'hex'),
  awarenessMalformed: frames.awareness([[7, 1, {}]]).with(-1, 0x21),
  awarenessHuge: frames.awareness([[7, 1, { name: 'x'.repeat(2 * 1024 * 1024) }]]),
}

async function residentBytes(pid) {
  const status = await readFile(`/proc/${pid}/status`, 'utf8')
  return Number(/VmRSS:\s+(\d+) kB/.exec(status)[1]) * 1024
}

describe('bad input', { concurrency: false, skip: OURS_ONLY }, () => {
  let server
  let bystander
  before(async () => {
    server = await startServer()
    bystander = new SyncClient(server.ws, 'bystander')
    await until('the bystander to be synced', () => bystander.synced)
  })
  afterEach(async () => {
    bystander.doc.getText('t').insert(0, 'still here ')
    await until('an edit in another room to be acknowledged', () => bystander.durable, BYSTANDER_MS_MAX)
    assert.equal(bystander.closed, null)
    await assertHealthy(server)
  })
  after(async () => {
    bystander?.destroy()
    await server?.stop()
  })

  for (const cause of ['garbage', 'hugeHeader', 'noKey', 'oldVersion']) {
    test(CAUSES[cause].what, () => expectRefused(server, cause))
  }

  for (const [cause, bytes] of Object.entries(BAD_FRAMES)) {
    test(CAUSES[cause].what, async (t) => {
      const connection = await dialRoom(server, `frames-${cause}`)
      t.after(() => connection.socket.destroy())
      connection.socket.write(bytes)
      const code = await until('a close frame', () => closeCode(connection.received) ?? (connection.socket.destroyed && 1006))
      assertClose(cause, code)
    })
  }

  for (const [cause, bytes] of [
    ['hugeMessage', 60_000],
    ['manyFragments', 10],
  ]) {
    test(CAUSES[cause].what, { timeout: 60_000 }, async (t) => {
      const connection = await dialRoom(server, `fragments-${cause}`)
      t.after(() => connection.socket.destroy())
      const before = await residentBytes(server.pid)
      connection.socket.write(frame({ first: 0x02, payload: Buffer.alloc(1) }))
      const piece = frame({ first: 0x00, payload: Buffer.alloc(bytes) })
      let code
      for (let sent = 0; sent < 2000 && code === undefined && !connection.socket.destroyed; sent++) {
        if (!connection.socket.write(piece)) await Promise.race([once(connection.socket, 'drain'), connection.ended])
        code = closeCode(connection.received)
      }
      code ??= await until('a close frame', () => closeCode(connection.received) ?? (connection.socket.destroyed && 1006))
      assertClose(cause, code)
      assert.ok((await residentBytes(server.pid)) - before < RSS_GROWTH_BYTES_MAX)
    })
  }

  for (const [cause, bytes] of Object.entries(BAD_MESSAGES)) {
    test(CAUSES[cause].what, () => expectClosed(server, `messages-${cause}`, cause, bytes))
  }

  test('a message of unknown type is passed over', async (t) => {
    const client = new RawClient(server.ws, 'unknown-type')
    t.after(() => client.destroy())
    await client.opened
    client.send(Buffer.from('630102', 'hex'))
    await client.barrier()
    assert.equal(client.closed, null)
  })

  for (const [index, hazard] of HAZARDS.entries()) {
    test(`update: ${hazard.what}`, async (t) => {
      const room = `hazard-${index}`
      const peer = new RawClient(server.ws, room)
      const sender = new RawClient(server.ws, room)
      t.after(() => {
        peer.destroy()
        sender.destroy()
      })
      await Promise.all([peer.opened, sender.opened])
      await until('the server to ask', () => sender.messages('step1').length > 0)
      sender.send(frames.step2(Uint8Array.of(0, 0)))
      sender.send(frames.update(Buffer.from(hazard.hex, 'hex')))
      const answer = await until('an answer', () => {
        if (sender.closed) return 'close'
        if (sender.updates().length > 0) return 'take'
        return sender.messages('step1').length > 1 && 'ask'
      })
      if (answer === 'close') assertClose('updateMalformed', sender.closed.code)
      if (hazard.answer === 'refuse') assert.notEqual(answer, 'take')
      else assert.equal(answer, hazard.answer)

      await peer.barrier()
      assert.deepEqual(peer.updates(), answer === 'take' ? [hex(Buffer.from(hazard.hex, 'hex'))] : [])
      const other = new SyncClient(server.ws, room)
      t.after(() => other.destroy())
      await until('the room to serve on', () => other.caughtUp)
      other.doc.getText('still').insert(0, 'working')
      await until('an edit in this room to be acknowledged', () => other.durable)
    })
  }

  test('a client that never reads', { timeout: 60_000 }, async (t) => {
    const before = await residentBytes(server.pid)
    const deaf = await dialRoom(server, 'deaf')
    deaf.socket.pause()
    t.after(() => deaf.socket.destroy())
    const writer = new SyncClient(server.ws, 'deaf')
    t.after(() => writer.destroy())
    await until('the writer to be synced', () => writer.synced)
    const text = writer.doc.getText('t')
    for (let round = 0; round < 120; round++) {
      text.insert(0, String(round % 10).repeat(200_000))
      text.delete(100_000, text.length - 100_000)
      if (round % 20 === 19) await until('the writer to be acknowledged', () => writer.durable, 15_000)
    }
    assert.ok((await residentBytes(server.pid)) - before < RSS_GROWTH_BYTES_MAX, 'what it did not read is held in memory')
    const newcomer = new SyncClient(server.ws, 'deaf')
    t.after(() => newcomer.destroy())
    await until('the room to be whole', () => newcomer.caughtUp && newcomer.doc.getText('t').toString() === text.toString())
  })

  test(`${HALF_OPEN} connections that never say anything`, { timeout: 120_000 }, async (t) => {
    const connections = Array.from({ length: HALF_OPEN }, () => dial(server.port))
    t.after(() => connections.forEach(({ socket }) => socket.destroy()))
    await sleep(200)
    connections.slice(0, HALF_OPEN / 2).forEach(({ socket }) => socket.write('GET /room HTTP/1.1\r\nHost: local'))
    const client = new SyncClient(server.ws, 'beside')
    t.after(() => client.destroy())
    await until('a room beside them', () => client.caughtUp)
  })
})

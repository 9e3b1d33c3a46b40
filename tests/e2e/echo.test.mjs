// The echo is the acknowledgement: each update of a session comes back to it once, verbatim, in
// order, after it is durable. Its durability is shown by kill-9.test.mjs.
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import * as Y from 'yjs'
import { frames, hex, RawClient } from './lib/raw.mjs'
import { OURS_ONLY, startServer } from './lib/server.mjs'
import { until } from './lib/until.mjs'

/** The updates of somebody typing `count` letters, and the document they make. */
function typing(count) {
  const doc = new Y.Doc()
  const updates = []
  doc.on('update', (update) => updates.push(update))
  for (let i = 0; i < count; i++) {
    if (i % 5 === 4) doc.getText('t').delete(0, 1)
    else doc.getText('t').insert(i >> 1, String.fromCharCode(97 + (i % 26)))
  }
  return { doc, updates }
}

describe('the echo', { concurrency: false }, () => {
  let server
  before(async () => {
    server = await startServer()
  })
  after(() => server?.stop())

  async function join(t, room = t.name.replaceAll(/[^a-z0-9]+/gi, '-')) {
    const client = new RawClient(server.ws, room)
    t.after(() => client.destroy())
    await client.opened
    await until('the server to ask', () => client.messages('step1').length > 0)
    return client
  }
  const echoes = (client, count) => until(`${count} echoes`, () => client.updates().length >= count && client.updates())

  test('every update, once and in order', async (t) => {
    const client = await join(t)
    const peer = await join(t)
    const { updates } = typing(500)
    for (const update of updates) client.send(frames.update(update))
    assert.deepEqual(await echoes(client, updates.length), updates.map(hex))
    await client.barrier()
    assert.equal(client.updates().length, updates.length)
    assert.ok(client.received.every(({ rest }) => !rest), 'one message in a frame')
    assert.deepEqual(await echoes(peer, updates.length), updates.map(hex))
  })

  test('a known update is echoed again, to its sender only', { skip: OURS_ONLY }, async (t) => {
    const client = await join(t)
    const peer = await join(t)
    const { updates } = typing(3)
    for (const update of [...updates, updates[1], updates[1]]) client.send(frames.update(update))
    assert.deepEqual(await echoes(client, 5), [...updates, updates[1], updates[1]].map(hex))
    await peer.barrier()
    assert.deepEqual(peer.updates(), updates.map(hex))
  })

  test('a step 2 is echoed as an update, an empty one is not', { skip: OURS_ONLY }, async (t) => {
    const client = await join(t)
    const { doc, updates } = typing(20)
    const all = Y.encodeStateAsUpdate(doc)
    client.send(frames.step2(Uint8Array.of(0, 0)))
    client.send(frames.step2(all))
    client.send(frames.update(updates[4]))
    client.send(frames.step2(all))
    assert.deepEqual(await echoes(client, 3), [all, updates[4], all].map(hex))
    await client.barrier()
    assert.equal(client.updates().length, 3)
  })

  test('several messages in one frame are several messages', { skip: OURS_ONLY }, async (t) => {
    const client = await join(t)
    const { updates } = typing(4)
    client.send(Buffer.concat(updates.map(frames.update)))
    assert.deepEqual(await echoes(client, 4), updates.map(hex))
  })

  test('an update past a gap is not echoed: the server asks for what it lacks', { skip: OURS_ONLY }, async (t) => {
    const client = await join(t)
    const peer = await join(t)
    const { doc, updates } = typing(4)
    // While a question is open the server asks no other, so its first is answered.
    const asked = client.messages('step1').length
    client.send(frames.step2(Uint8Array.of(0, 0)))
    client.send(frames.update(updates[0]))
    for (const update of updates.slice(2)) client.send(frames.update(update))
    const question = await until('a question', () => client.messages('step1')[asked])
    await client.barrier()
    assert.deepEqual(client.updates(), [hex(updates[0])])
    const answer = Y.encodeStateAsUpdate(doc, question.body)
    client.send(frames.step2(answer))
    assert.deepEqual(await echoes(client, 2), [updates[0], answer].map(hex))

    const reader = new Y.Doc()
    for (const { body } of peer.messages('update')) Y.applyUpdate(reader, body)
    assert.equal(reader.getText('t').toString(), doc.getText('t').toString())
    assert.equal(reader.store.pendingStructs, null)
  })

  test('what a newcomer is given is complete', async (t) => {
    const client = await join(t, 'complete')
    const { doc, updates } = typing(300)
    for (const update of updates) client.send(frames.update(update))
    await echoes(client, updates.length)
    const newcomer = await join(t, 'complete')
    await newcomer.barrier()
    const reader = new Y.Doc()
    for (const { kind, body } of newcomer.received) if (kind === 'step2' || kind === 'update') Y.applyUpdate(reader, body)
    assert.deepEqual(Y.encodeSnapshot(Y.snapshot(reader)), Y.encodeSnapshot(Y.snapshot(doc)))
    assert.equal(reader.getText('t').toString(), doc.getText('t').toString())
  })
})

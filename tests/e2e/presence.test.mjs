// Presence: seen while its connection lives, gone when that goes, never back by itself.
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect, leave, synced, VERSIONS } from './lib/providers.mjs'
import { frames, RawClient } from './lib/raw.mjs'
import { OURS_ONLY, startServer } from './lib/server.mjs'
import { until } from './lib/until.mjs'

const LONG = process.env.COLLABBLOCKS_LONG === '1' ? false : 'takes more than 30 s: set COLLABBLOCKS_LONG=1'
/** Well under the 15 s after which clients would announce themselves again anyway. */
const SOON_MS = 4000

describe('presence', { concurrency: false }, () => {
  let server
  before(async () => {
    server = await startServer()
  })
  after(() => server?.stop())

  /** Clients in a room of the test's own, gone when it ends. */
  function roomOf(t) {
    const room = t.name.replaceAll(/[^a-z0-9]+/gi, '-')
    return {
      async provider(version) {
        const client = await connect(version, server.ws, room)
        t.after(() => leave(client))
        await synced(client)
        return client
      },
      async raw() {
        const client = new RawClient(server.ws, room)
        t.after(() => client.destroy())
        await client.opened
        return client
      },
    }
  }
  const seen = (watcher, client) => watcher.awareness.getStates().get(client.doc.clientID)

  for (const version of VERSIONS) {
    test(`${version}: seen, changed, gone on close`, async (t) => {
      const room = roomOf(t)
      const watcher = await room.provider('v3')
      const client = await room.provider(version)
      client.awareness.setLocalStateField('user', { name: 'Ada' })
      await until('the state', () => seen(watcher, client)?.user?.name === 'Ada', SOON_MS)
      client.awareness.setLocalStateField('user', { name: 'Grace' })
      await until('the change', () => seen(watcher, client)?.user?.name === 'Grace', SOON_MS)
      client.provider.disconnect()
      await until('it to go', () => seen(watcher, client) === undefined, SOON_MS)
    })

    test(`${version}: gone when its socket is cut, back at once when it reconnects`, { skip: OURS_ONLY }, async (t) => {
      const room = roomOf(t)
      const watcher = await room.provider('v3')
      const client = await room.provider(version)
      client.awareness.setLocalStateField('user', { name: 'Ada' })
      await until('the state', () => seen(watcher, client)?.user?.name === 'Ada', SOON_MS)
      client.provider.ws.terminate()
      await until('it to go', () => seen(watcher, client) === undefined, SOON_MS)
      await until('it to return', () => seen(watcher, client)?.user?.name === 'Ada', SOON_MS)
      assert.equal(watcher.awareness.getStates().size, 2)
    })
  }

  test('a newcomer is told of those present', async (t) => {
    const room = roomOf(t)
    const early = await room.raw()
    early.send(frames.awareness([[77, 1, { name: 'early' }]]))
    await early.barrier()
    const late = await room.raw()
    await until('the early one', () => late.presence(77)?.[1]?.name === 'early', SOON_MS)
  })

  test('a query is answered with everyone', { skip: OURS_ONLY }, async (t) => {
    const room = roomOf(t)
    const one = await room.raw()
    const two = await room.raw()
    one.send(frames.awareness([[11, 1, { name: 'one' }]]))
    two.send(frames.awareness([[22, 1, { name: 'two' }]]))
    await until('the other', () => two.presence(11), SOON_MS)
    two.received.length = 0
    two.send(frames.queryAwareness())
    const answered = () => two.messages('awareness').some(({ entries }) => [11, 22].every((id) => entries.some(([client]) => client === id)))
    await until('an answer with both', answered, SOON_MS)
  })

  test('all states of a connection go with it, not only the first', async (t) => {
    const room = roomOf(t)
    const watcher = await room.raw()
    const client = await room.raw()
    client.send(frames.awareness([[1, 1, { n: 1 }], [2, 1, { n: 2 }]]))
    client.send(frames.awareness([[3, 1, { n: 3 }]]))
    await until('all three', () => [1, 2, 3].every((id) => watcher.presence(id)?.[1]), SOON_MS)
    client.destroy()
    await until('all to go', () => [1, 2, 3].every((id) => watcher.presence(id)?.[1] === null), SOON_MS)
  })

  test('a late old state resurrects nobody', async (t) => {
    const room = roomOf(t)
    const watcher = await room.raw()
    const client = await room.raw()
    client.send(frames.awareness([[77, 5, { name: 'gone' }]]))
    await until('it to be seen', () => watcher.presence(77)?.[1], SOON_MS)
    client.destroy()
    await until('it to go', () => watcher.presence(77)?.[1] === null, SOON_MS)

    const late = await room.raw()
    late.send(frames.awareness([[77, 3, { name: 'ghost' }]]))
    late.send(frames.awareness([[77, 5, { name: 'ghost' }]]))
    await late.barrier()
    await watcher.barrier()
    assert.equal(watcher.presence(77)[1], null)
    const newcomer = await room.raw()
    await newcomer.barrier()
    assert.ok(!newcomer.presence(77)?.[1], 'a newcomer sees the ghost')
  })

  test('nobody removes another who lives', { skip: OURS_ONLY }, async (t) => {
    const room = roomOf(t)
    const owner = await room.raw()
    const other = await room.raw()
    owner.send(frames.awareness([[77, 5, { name: 'alive' }]]))
    await until('it to be seen', () => other.presence(77)?.[1], SOON_MS)
    other.send(frames.awareness([[77, 6, null]]))
    await other.barrier()
    const newcomer = await room.raw()
    await until('it to be there', () => newcomer.presence(77)?.[1]?.name === 'alive', SOON_MS)
  })

  test('a client with no state of its own stays connected', { skip: LONG }, async (t) => {
    const room = roomOf(t)
    const client = await room.provider('v3')
    client.awareness.setLocalState(null)
    let closes = 0
    client.provider.on('connection-close', () => closes++)
    await sleep(40_000)
    assert.equal(closes, 0)
    assert.ok(client.provider.wsconnected)
  })
})

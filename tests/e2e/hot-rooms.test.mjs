// A room with more sessions than `hot_room_sessions`, on two cores: published clients converge, and
// what was acknowledged survives SIGKILL.
import assert from 'node:assert/strict'
import { rm } from 'node:fs/promises'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import * as Y from 'yjs'
import { assertKept, newLedger, record, snapshot } from './lib/ledger.mjs'
import { connect, leave, synced } from './lib/providers.mjs'
import { random, runSeed } from './lib/random.mjs'
import { SyncClient } from './lib/raw.mjs'
import { freePort, OURS_ONLY, startServer, tempDir } from './lib/server.mjs'
import { until } from './lib/until.mjs'

const CLIENTS = 20
const ROOM = 'hot'
const HOT = { cores: 2, args: ['--limits-hot-room-sessions', '4'] }

async function figure(server, name) {
  const text = await (await fetch(`${server.http}/metrics`)).text()
  const lines = text.split('\n').filter((line) => line.startsWith(`collabblocks_${name}`))
  return lines.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0)
}

test(`${CLIENTS} clients of a hot room on two cores`, { skip: OURS_ONLY, timeout: 120_000 }, async (t) => {
  const seed = runSeed()
  t.diagnostic(`COLLABBLOCKS_SEED=${seed}`)
  const draw = random(seed)
  const server = await startServer(HOT)
  t.after(() => server.stop())
  const clients = []
  t.after(() => clients.forEach(leave))
  const versions = ['v1', 'v2', 'v3']
  for (let index = 0; index < CLIENTS; index++) {
    const client = await connect(versions[index % versions.length], server.ws, ROOM)
    clients.push(client)
    await synced(client)
    client.awareness.setLocalState({ index })
  }
  await until('the room to be hot', async () => (await figure(server, 'hot_rooms')) === 1)
  const away = await figure(server, 'away_sessions')
  assert.ok(away > 0 && away < CLIENTS, `${away} sessions are away from the room's core`)
  for (let round = 0; round < 30; round++) {
    for (const { doc } of clients) {
      const text = doc.getText('t')
      if (draw.next() < 0.7 || text.length < 4) text.insert(draw.below(text.length + 1), `${draw.below(1e6)} `)
      else text.delete(draw.below(text.length - 3), draw.between(1, 3))
    }
    await sleep(draw.below(10))
  }
  const [first, ...others] = clients
  await until('equal documents', () => others.every(({ doc }) => snapshot(doc) === snapshot(first.doc)))
  assert.ok(first.doc.getText('t').length > 100)
  for (const { doc } of others) assert.equal(doc.getText('t').toString(), first.doc.getText('t').toString())
  const sees = ({ awareness }) => [...awareness.getStates().values()].map(({ index }) => index).filter((n) => n >= 0)
  await until('all to see all', () => clients.every((client) => new Set(sees(client)).size === CLIENTS))
  for (const client of clients.splice(10)) leave(client)
  await until('those who left to disappear', () => clients.every((client) => new Set(sees(client)).size === 10))
})

test('kill -9 of a hot room loses nothing that was acknowledged', { skip: OURS_ONLY, timeout: 120_000 }, async (t) => {
  const seed = runSeed()
  t.diagnostic(`COLLABBLOCKS_SEED=${seed}`)
  const draw = random(seed)
  const data = await tempDir('hot')
  t.after(() => rm(data, { recursive: true, force: true }))
  const port = await freePort()
  const ledger = newLedger([ROOM])
  const docs = Array.from({ length: CLIENTS }, () => new Y.Doc())
  for (let round = 0; round < 2; round++) {
    const server = await startServer({ ...HOT, data, port })
    await assertKept(server, ledger)
    const clients = []
    for (const doc of docs) {
      const client = new SyncClient(server.ws, ROOM, doc)
      record(ledger, ROOM, client)
      clients.push(client)
      await client.opened
    }
    assert.ok((await figure(server, 'away_sessions')) > 0, 'no session is away from the room')
    const writing = clients.map(async (client) => {
      while (!client.closed) {
        if (client.synced) client.doc.getText('t').insert(0, `${draw.below(1e6)} `)
        await sleep(draw.below(20))
      }
    })
    await sleep(draw.between(100, 700))
    await server.kill()
    await Promise.all(writing)
  }
  const server = await startServer({ ...HOT, data, port })
  t.after(() => server.stop())
  await assertKept(server, ledger)
  const echoes = ledger.get(ROOM).length
  assert.ok(echoes > 100, `only ${echoes} updates were acknowledged: the load was no load`)
  const clients = docs.map((doc) => new SyncClient(server.ws, ROOM, doc))
  await until('everything to be acknowledged', () => clients.every((client) => client.caughtUp && client.durable))
  await until('equal documents', () => docs.every((doc) => snapshot(doc) === snapshot(docs[0])))
  for (const client of clients) client.destroy()
})

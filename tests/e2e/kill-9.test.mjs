// SIGKILL at random moments under load. Whatever any client saw echoed is there after restart.
// COLLABBLOCKS_KILL_ROUNDS sets the rounds.
import assert from 'node:assert/strict'
import { rm } from 'node:fs/promises'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import * as Y from 'yjs'
import { assertKept, newLedger, record, snapshot } from './lib/ledger.mjs'
import { random, runSeed } from './lib/random.mjs'
import { SyncClient } from './lib/raw.mjs'
import { freePort, OURS_ONLY, startServer, tempDir } from './lib/server.mjs'
import { until } from './lib/until.mjs'

const ROUNDS = Number(process.env.COLLABBLOCKS_KILL_ROUNDS ?? 5)
const ROOMS = ['one', 'two', 'three/a%20b']
const WRITERS_PER_ROOM = 2
const UPTIME_MS_MAX = 700

function edit(draw, doc) {
  const text = doc.getText('t')
  const roll = draw.next()
  if (roll < 0.7 || text.length < 4) text.insert(draw.below(text.length + 1), `${draw.below(1e6)} `)
  else if (roll < 0.95) text.delete(draw.below(text.length - 3), draw.between(1, 3))
  else doc.getMap('m').set(`k${draw.below(5)}`, draw.below(1e6))
}

/** Types until the connection goes. */
async function write(draw, client) {
  while (!client.closed) {
    if (client.synced) for (let i = draw.between(1, 5); i > 0; i--) edit(draw, client.doc)
    await sleep(draw.below(4))
  }
}

test(`${ROUNDS} rounds of kill -9`, { skip: OURS_ONLY, timeout: 60_000 + ROUNDS * 8000 }, async (t) => {
  const seed = runSeed()
  t.diagnostic(`COLLABBLOCKS_SEED=${seed}`)
  const draw = random(seed)
  const data = await tempDir('kill')
  t.after(() => rm(data, { recursive: true, force: true }))
  const port = await freePort()
  const ledger = newLedger(ROOMS)
  const writers = ROOMS.flatMap((room) => Array.from({ length: WRITERS_PER_ROOM }, () => ({ room, doc: new Y.Doc() })))

  for (let round = 0; round < ROUNDS; round++) {
    const server = await startServer({ data, port })
    await assertKept(server, ledger)
    const clients = writers.map(({ room, doc }) => {
      const client = new SyncClient(server.ws, room, doc)
      record(ledger, room, client)
      return client
    })
    await Promise.all(clients.map((client) => client.opened))
    const writing = clients.map((client) => write(draw, client))
    await sleep(draw.between(20, UPTIME_MS_MAX))
    await server.kill()
    await Promise.all(writing)
  }

  const server = await startServer({ data, port })
  t.after(() => server.stop())
  await assertKept(server, ledger)
  const echoes = [...ledger.values()].reduce((sum, updates) => sum + updates.length, 0)
  assert.ok(echoes > ROUNDS * 10, `only ${echoes} updates were acknowledged: the load was no load`)
  t.diagnostic(`${echoes} acknowledged updates survived`)

  // The writers come back with what was never acknowledged, and all end equal.
  const clients = writers.map(({ room, doc }) => new SyncClient(server.ws, room, doc))
  await until('everything to be acknowledged', () => clients.every((client) => client.caughtUp && client.durable))
  for (const room of ROOMS) {
    const [first, ...others] = clients.filter((_, index) => writers[index].room === room)
    await until(`equal documents in ${room}`, () => others.every(({ doc }) => snapshot(doc) === snapshot(first.doc)))
  }
  for (const client of clients) client.destroy()
})

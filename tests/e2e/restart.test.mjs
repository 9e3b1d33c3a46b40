// SIGTERM drains: clients are told 1012, the process ends with 0, everything is there again after
// the next start, whatever the number of cores.
import assert from 'node:assert/strict'
import { rm } from 'node:fs/promises'
import { test } from 'node:test'
import * as Y from 'yjs'
import { connect, leave, synced, VERSIONS } from './lib/providers.mjs'
import { frames, RawClient } from './lib/raw.mjs'
import { freePort, OURS_ONLY, startServer, tempDir } from './lib/server.mjs'
import { until } from './lib/until.mjs'

test('SIGTERM drains, a restart with other cores has everything', { skip: OURS_ONLY, timeout: 90_000 }, async (t) => {
  const data = await tempDir('restart')
  t.after(() => rm(data, { recursive: true, force: true }))
  const port = await freePort()
  const rooms = Array.from({ length: 12 }, (_, index) => `restart-${index}`)
  let server = await startServer({ data, port, cores: 2 })
  const clients = []
  for (const [index, room] of rooms.entries()) {
    const client = await connect(VERSIONS[index % 3], server.ws, room)
    t.after(() => leave(client))
    await synced(client)
    client.doc.getText('t').insert(0, `text of ${room}`)
    clients.push(client)
  }
  const witness = new RawClient(server.ws, 'witness')
  await witness.opened
  const codes = []
  clients[2].provider.on('connection-close', (event) => codes.push(event?.code))
  // Typed in the last moment: not acknowledged, so it may come back only with its author.
  clients[0].doc.getText('t').insert(0, 'last words, ')

  const end = await server.terminate()
  assert.deepEqual(end, { code: 0, signal: null }, server.log)
  assert.deepEqual((await witness.waitClosed()).code, 1012)
  // The process may end before the client has looked at its socket.
  await until('the provider to be told', () => codes.length > 0)
  assert.deepEqual(codes, [1012])

  for (const cores of [1, 2]) {
    clients[1].doc.getText('t').insert(0, `before ${cores}, `)
    server = await startServer({ data, port, cores })
    await until('all to be back', () => clients.every(({ provider }) => provider.synced), 20_000)
    for (const [index, room] of rooms.entries()) {
      const fresh = await connect('v3', server.ws, room)
      await synced(fresh)
      await until(`${room} to be whole`, () => fresh.doc.getText('t').toString() === clients[index].doc.getText('t').toString())
      assert.ok(fresh.doc.getText('t').toString().endsWith(`text of ${room}`))
      leave(fresh)
    }
    assert.equal((await server.terminate()).code, 0)
  }
})

test('what is in flight at SIGTERM is either echoed or not lost on its author', { skip: OURS_ONLY, timeout: 60_000 }, async (t) => {
  const data = await tempDir('drain')
  t.after(() => rm(data, { recursive: true, force: true }))
  const port = await freePort()
  const first = await startServer({ data, port })
  const client = new RawClient(first.ws, 'drain')
  await client.opened
  const doc = new Y.Doc()
  doc.on('update', (update) => client.send(frames.update(update)))
  for (let i = 0; i < 300; i++) doc.getText('t').insert(i, 'x')
  assert.equal((await first.terminate()).code, 0)
  await client.waitClosed()

  const second = await startServer({ data, port })
  t.after(() => second.stop())
  const reader = await connect('v3', second.ws, 'drain')
  t.after(() => leave(reader))
  await synced(reader)
  const echoed = client.updates().length
  assert.ok(reader.doc.getText('t').length >= echoed, `${reader.doc.getText('t').length} of ${echoed} acknowledged letters`)
})

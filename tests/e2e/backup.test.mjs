// A copy of a stopped server's data directory is a backup: it is found sound, it can be put back, and
// clients that have more than it bring it.
import assert from 'node:assert/strict'
import { cp, rm } from 'node:fs/promises'
import { test } from 'node:test'
import { connect, leave, synced } from './lib/providers.mjs'
import { freePort, OURS_ONLY, run, startServer, tempDir } from './lib/server.mjs'
import { until } from './lib/until.mjs'

test('a copy of a stopped server is restored', { skip: OURS_ONLY, timeout: 90_000 }, async (t) => {
  const [data, copies] = [await tempDir('data'), await tempDir('backup')]
  t.after(() => Promise.all([data, copies].map((dir) => rm(dir, { recursive: true, force: true }))))
  const port = await freePort()
  let server = await startServer({ data, port, cores: 2 })
  t.after(() => server.stop())
  const rooms = ['r1', 'r2', 'r3', 'r4']
  const clients = []
  for (const room of rooms) {
    const client = await connect('v3', server.ws, room)
    t.after(() => leave(client))
    await synced(client)
    client.doc.getText('t').insert(0, `before the backup of ${room}`)
    clients.push(client)
  }
  const reader = async (room) => {
    const client = await connect('v3', server.ws, room)
    await synced(client)
    const text = client.doc.getText('t').toString()
    leave(client)
    return text
  }
  for (const room of rooms) await until('it to be taken', async () => (await reader(room)) !== '')
  assert.equal((await server.terminate()).code, 0, server.log)
  const copy = `${copies}/collabblocks`
  await cp(data, copy, { recursive: true })
  const verdict = await run(['wal', 'verify', copy])
  assert.equal(verdict.code, 0, verdict.output)
  assert.match(verdict.output, /closed in order/)

  // Three rooms are left; the fourth stays open, and has more than the copy.
  clients.slice(0, 3).forEach(leave)
  server = await startServer({ data, port, cores: 2 })
  await until('the last client to be back', () => clients[3].provider.synced)
  clients[3].doc.getText('t').insert(0, 'after it, ')
  await until('it to be taken', async () => (await reader('r4')).startsWith('after it, '))
  const lost = await connect('v3', server.ws, 'r1')
  await synced(lost)
  lost.doc.getText('t').insert(0, 'after it, ')
  await until('it to be taken', async () => (await reader('r1')).startsWith('after it, '))
  leave(lost)
  assert.equal((await server.terminate()).code, 0, server.log)

  await rm(data, { recursive: true })
  await cp(copy, data, { recursive: true })
  server = await startServer({ data, port, cores: 2 })
  for (const room of rooms.slice(0, 3)) assert.equal(await reader(room), `before the backup of ${room}`)
  await until('the last client to bring what it has', async () => (await reader('r4')) === 'after it, before the backup of r4', 20_000)
})

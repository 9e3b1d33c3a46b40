// What the server does behind clients' backs: rooms leave memory and come back, the log is recycled.
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { rm } from 'node:fs/promises'
import { test } from 'node:test'
import { assertKept, newLedger, record } from './lib/ledger.mjs'
import { logSegments } from './lib/log-bytes.mjs'
import { SyncClient } from './lib/raw.mjs'
import { metric, OURS_ONLY, run, startServer, tempDir } from './lib/server.mjs'
import { until } from './lib/until.mjs'
import { SMALL_SEGMENTS, write } from './lib/writing.mjs'

const ROOMS = 300
const WRITERS = 6
const LOG_BYTES = 24 * 1024 * 1024
const UPDATE_BYTES = 100_000
const SEGMENTS_MAX = 2
/** Beside those kept: two prepared, two to be used again, and those written while a checkpoint is under way. */
const SEGMENTS_BESIDE = 10

async function dataDir(t, name) {
  const dir = await tempDir(name)
  t.after(() => rm(dir, { recursive: true, force: true }))
  return dir
}

test('rooms that nobody uses leave memory and come back', { skip: OURS_ONLY, timeout: 60_000 }, async (t) => {
  const data = await dataDir(t, 'evict')
  const args = ['--snapshots-evict-after-s', '1']
  const names = Array.from({ length: ROOMS }, (_, index) => `room-${index}`)
  let server = await startServer({ data, args })
  t.after(() => server.stop())
  const resident = new SyncClient(server.ws, 'resident')
  t.after(() => resident.destroy())
  await until('the resident to be synced', () => resident.synced)
  resident.doc.getText('t').insert(0, 'stays')

  for (const round of ['first', 'second']) {
    await Promise.all(names.map((name) => write(server, name, `${round} in ${name}. `)))
    await until('all but one to be evicted', async () => (await metric(server, 'collabblocks_rooms_loaded')) === 1, 20_000)
    assert.ok((await metric(server, 'collabblocks_rooms_evicted_total')) >= ROOMS)
    assert.equal(await metric(server, 'collabblocks_rooms_known'), ROOMS + 1)
  }
  const wanted = (name) => `second in ${name}. first in ${name}. `
  await Promise.all(names.map(async (name) => assert.equal(await write(server, name, ''), wanted(name))))
  assert.equal(resident.closed, null)
  resident.doc.getText('t').insert(5, ' on')
  await until('the resident to be acknowledged', () => resident.durable)

  await server.kill()
  server = await startServer({ data, args, cores: 1 })
  await Promise.all(names.map(async (name) => assert.equal(await write(server, name, ''), wanted(name))))
  assert.equal(await write(server, 'resident', ''), 'stays on')
})

test('the log is recycled and stays bounded', { skip: OURS_ONLY, timeout: 90_000 }, async (t) => {
  const data = await dataDir(t, 'recycle')
  const options = { data, cores: 2, args: [...SMALL_SEGMENTS, '--wal-segments-max', String(SEGMENTS_MAX)] }
  let server = await startServer(options)
  t.after(() => server.stop())
  const ledger = newLedger()
  const clients = Array.from({ length: WRITERS }, (_, index) => {
    const client = new SyncClient(server.ws, `room-${index}`)
    record(ledger, `room-${index}`, client)
    return client
  })
  t.after(() => clients.forEach((client) => client.destroy()))
  // Written once and never again: checkpoints have to carry them.
  for (let i = 0; i < 20; i++) await write(server, `once-${i}`, `once ${i}`, ledger)
  await until('all to be synced', () => clients.every(({ synced }) => synced))
  let filesMax = 0
  for (let sent = 0; sent < LOG_BYTES; sent += WRITERS * UPDATE_BYTES) {
    for (const { doc } of clients) {
      const text = doc.getText('t')
      text.insert(0, randomBytes(UPDATE_BYTES / 2).toString('hex'))
      if (text.length > 2 * UPDATE_BYTES) text.delete(UPDATE_BYTES, text.length - UPDATE_BYTES)
    }
    await until('all to be acknowledged', () => clients.every(({ durable, closed }) => durable || closed))
    assert.deepEqual(clients.map(({ closed }) => closed).filter(Boolean), [], server.log)
    filesMax = Math.max(filesMax, ...(await filesPerShard(data)))
  }
  t.diagnostic(`at most ${filesMax} files of 1 MiB in a shard's log`)
  assert.ok(filesMax <= SEGMENTS_MAX + SEGMENTS_BESIDE, `${filesMax} files in a shard's log`)
  assert.ok((await metric(server, 'collabblocks_wal_bytes_total')) >= LOG_BYTES)
  const before = clients.map(({ doc }) => doc.getText('t').toString())

  await server.kill()
  for (const detail of [['verify'], ['inspect'], ['inspect', '--batches'], ['inspect', '--records']]) {
    const { code, output } = await run(['wal', ...detail, data])
    assert.equal(code, 0, output)
    if (detail[0] === 'verify') {
      assert.equal([...output.matchAll(/^shard \d: ok, \d+ records/gm)].length, 2, output)
      assert.equal([...output.matchAll(/^shard \d: \d+ rooms?, \d+ snapshots?: (all can be read|nothing to read)$/gm)].length, 2, output)
    } else assert.equal([...output.matchAll(/^shard \d+: /gm)].length, 2, output)
    if (detail[0] === 'inspect') assert.match(output, /segment \d+: 1048576 bytes, \d+ batches, \d+ records/)
    if (detail[1] === '--batches') assert.match(output, /batch at LSN \d+: \d+ bytes, \d+ records, epoch 1/)
    if (detail[1] === '--records') assert.match(output, /LSN \d+ Update room \d+ seq \d+, \d+ bytes/)
  }
  server = await startServer(options)
  await assertKept(server, ledger)
  for (const [index, text] of before.entries()) assert.equal(await write(server, `room-${index}`, ''), text)
  for (let i = 0; i < 20; i++) assert.equal(await write(server, `once-${i}`, ''), `once ${i}`)
})

/** How many log segments each shard has. */
async function filesPerShard(data) {
  const counts = new Map()
  for (const path of await logSegments(data)) {
    const shard = /shard-\d+/.exec(path)[0]
    counts.set(shard, (counts.get(shard) ?? 0) + 1)
  }
  return counts.values()
}

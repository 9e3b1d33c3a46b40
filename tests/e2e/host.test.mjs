// What the host may refuse: a start that cannot go well ends with one sentence that says what to do
// and the right exit code, and a server that runs does not mind.
import assert from 'node:assert/strict'
import { chmod, mkdir, rm, stat, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { smallDisk } from './lib/disk.mjs'
import { assertKept, newLedger, record } from './lib/ledger.mjs'
import { logSegments } from './lib/log-bytes.mjs'
import { random, runSeed } from './lib/random.mjs'
import { SyncClient } from './lib/raw.mjs'
import { dial } from './lib/refusals.mjs'
import { assertHealthy, freePort, interruptedStart, metric, OURS_ONLY, refusedStart, run, startServer, tempDir } from './lib/server.mjs'
import { until } from './lib/until.mjs'
import { SMALL_SEGMENTS, write } from './lib/writing.mjs'

const EXIT_UNAVAILABLE = 69
const EXIT_CONFIG = 78
const ROOT = process.getuid() === 0
/** Becomes the server as a user who owns nothing. */
const AS_NOBODY = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups']
const FILES_MAX = process.env.COLLABBLOCKS_LONG === '1' ? 19_500 : 300
const FLOOD = FILES_MAX + 300

/** Fails unless a start ended with `code` and one sentence in which each of `parts` stands. */
function assertRefused({ code, signal, output }, expected, ...parts) {
  assert.deepEqual({ code, signal }, { code: expected, signal: null }, output)
  const said = output.split('\n').filter((line) => line !== '' && !line.includes('"level":"WARN"'))
  assert.equal(said.length, 1, output)
  for (const part of parts) assert.ok(said[0].includes(part), `"${part}" is missing in: ${said[0]}`)
}

/** A data directory that goes with the test. */
async function dataDir(t, name) {
  const dir = await tempDir(name)
  t.after(() => rm(dir, { recursive: true, force: true }))
  return dir
}

describe('a start that is refused', { skip: OURS_ONLY }, () => {
  test('a data directory that may not be written', async (t) => {
    const dir = await dataDir(t, 'unwritable')
    await chmod(dir, 0o755)
    const data = join(dir, 'data')
    await mkdir(data, { mode: 0o555 })
    const via = ROOT ? AS_NOBODY : []
    assertRefused(await refusedStart({ data, via }), EXIT_CONFIG, data, 'may not be written', '--data')
    // Nor can it be made.
    await chmod(dir, 0o555)
    const absent = join(dir, 'absent')
    assertRefused(await refusedStart({ data: absent, via }), EXIT_CONFIG, absent, 'may not be written', '--data')
  })

  test('a store that is another user’s', { skip: ROOT ? false : 'only root can make one' }, async (t) => {
    const data = await dataDir(t, 'foreign')
    const server = await startServer({ data })
    await write(server, 'room', 'text')
    await server.stop()
    await chmod(data, 0o755)
    assertRefused(await refusedStart({ data, via: AS_NOBODY }), EXIT_CONFIG, data, 'may not be written', 'chown')
  })

  test('a file system that is mounted read-only', async (t) => {
    const disk = await smallDisk(64)
    if (disk.refused) return t.skip(disk.refused)
    t.after(() => disk.release())
    const data = join(disk.dir, 'data')
    const options = { data, cores: 1, args: [...SMALL_SEGMENTS, '--snapshots-disk-reserve-bytes', '0'] }
    const server = await startServer(options)
    await write(server, 'room', 'text')
    await server.stop()
    await disk.readOnly(true)
    assertRefused(await refusedStart(options), EXIT_CONFIG, data, 'may not be written', '--data')
    const verified = await run(['wal', 'verify', data])
    assert.equal(verified.code, 0, verified.output)
    await disk.readOnly(false)
    const again = await startServer(options)
    t.after(() => again.stop())
    await until('the text', async () => (await write(again, 'room', '')) === 'text')
  })

  test('a data path that is a file, or below one', async (t) => {
    const file = join(await dataDir(t, 'file'), 'file')
    await writeFile(file, 'precious')
    for (const data of [file, join(file, 'below')]) {
      assertRefused(await refusedStart({ data }), EXIT_CONFIG, 'is not a directory', '--data')
    }
    assert.equal((await stat(file)).size, 8)
  })

  test('a second server on the same data directory', async (t) => {
    const server = await startServer()
    t.after(() => server.stop())
    await write(server, 'room', 'one ')
    assertRefused(await refusedStart({ data: server.data }), EXIT_UNAVAILABLE, `process ${server.pid}`, '--data')
    await write(server, 'room', 'two ')
    await assertHealthy(server)
  })

  test('a port that is taken, by a server or by something else', async (t) => {
    const server = await startServer()
    t.after(() => server.stop())
    const other = createServer()
    t.after(() => other.close())
    await new Promise((resolve) => other.listen(0, '127.0.0.1', resolve))
    for (const port of [server.port, other.address().port]) {
      const data = await dataDir(t, 'port')
      const refused = await refusedStart({ data, port })
      assertRefused(refused, EXIT_UNAVAILABLE, `127.0.0.1:${port} is taken`, '--listen')
    }
    await assertHealthy(server)
  })

  test('an unknown key, flag or variable, and values that cannot be', async (t) => {
    const dir = await dataDir(t, 'config')
    const config = join(dir, 'config.toml')
    await writeFile(config, 'durability = "ack"\n\n[wal]\nsegmet_bytes = 1048576\n')
    const start = (...args) => refusedStart({ data: join(dir, 'data'), args })
    assertRefused(await start('--config', config), EXIT_CONFIG, `${config}:4`, 'wal.segmet_bytes', 'wal.segment_bytes')
    await writeFile(config, 'durability = "sometimes"\n')
    assertRefused(await start('--config', config), EXIT_CONFIG, `${config}:1`, 'ack', 'strict')
    assertRefused(await start('--config', join(dir, 'absent.toml')), EXIT_CONFIG, 'absent.toml')
    assertRefused(await start('--wal-segment-bytes', '5'), EXIT_CONFIG, '--wal-segment-bytes')
    const flag = await start('--wal-segmet-bytes', '1048576')
    assert.equal(flag.code, 2, flag.output)
    assert.ok(flag.output.includes('--wal-segment-bytes'), flag.output)
  })

  test('cores that are not there', async (t) => {
    const data = await dataDir(t, 'cores')
    for (const cores of [4000, '4000', '0,4000']) {
      assertRefused(await refusedStart({ data, cores }), EXIT_CONFIG, '--cores', 'affinity mask')
    }
  })

  test('too few files', async (t) => {
    const data = await dataDir(t, 'files')
    const via = ['prlimit', '--nofile=200:200']
    assertRefused(await refusedStart({ data, via }), EXIT_UNAVAILABLE, '200 files', 'ulimit -n')
  })
})

test('a store keeps the size of its segments, whatever is configured', { skip: OURS_ONLY }, async (t) => {
  const data = await dataDir(t, 'segments')
  const ledger = newLedger()
  const first = await startServer({ data, cores: 1, args: SMALL_SEGMENTS })
  await write(first, 'room', 'text', ledger)
  await first.stop()
  const second = await startServer({ data, cores: 1 })
  t.after(() => second.stop())
  await assertKept(second, ledger)
  assert.match(second.log, /wal\.segment_bytes is not what the store was made with/)
  for (let i = 0; i < 15; i++) await write(second, 'room', 'y'.repeat(200_000), ledger)
  const sizes = await Promise.all((await logSegments(data)).map(async (path) => (await stat(path)).size))
  assert.ok(sizes.length > 2, `${sizes.length} segments`)
  assert.deepEqual(new Set(sizes), new Set([1_048_576]))
  // What fits no segment is refused as too large.
  await assert.rejects(write(second, 'room', 'z'.repeat(1_100_000)), /closed with (4413|1009)/)
  await assertHealthy(second)
  await assertKept(second, ledger)
})

test('another number of cores, and kill -9 on the way there', { skip: OURS_ONLY, timeout: 90_000 }, async (t) => {
  if (availableParallelism() < 2) return t.skip('one core only')
  const seed = runSeed()
  t.diagnostic(`COLLABBLOCKS_SEED=${seed}`)
  const draw = random(seed)
  const data = await dataDir(t, 'rehome')
  const port = await freePort()
  const options = (cores) => ({ data, port, cores, args: SMALL_SEGMENTS })
  const ledger = newLedger()
  let server
  t.after(() => server?.stop())

  for (const [round, cores] of [1, 2, 1].entries()) {
    server = await startServer(options(cores))
    await assertKept(server, ledger)
    for (let room = 0; room < 16; room++) {
      await write(server, `room ${room}`, `round ${round} of ${room}, ${'x'.repeat(draw.below(40_000))}`, ledger)
    }
    if (round === 1) await server.kill()
    else await server.terminate()
    // Starts that are killed while they move the rooms to the next number of cores.
    for (let kill = 0; kill < 4; kill++) {
      await interruptedStart(options(3 - cores), draw.below(400))
    }
  }
  server = await startServer(options(2))
  await assertKept(server, ledger)
})

test('the file limit is reached', { skip: OURS_ONLY, timeout: 60_000 }, async (t) => {
  const server = await startServer({ via: ['prlimit', `--nofile=${FILES_MAX}:${FILES_MAX}`], args: SMALL_SEGMENTS })
  t.after(() => server.stop())
  const ledger = newLedger()
  const client = new SyncClient(server.ws, 'before')
  t.after(() => client.destroy())
  record(ledger, 'before', client)
  await until('the client to be synced', () => client.synced)

  const flood = Array.from({ length: FLOOD }, () => dial(server.port))
  t.after(() => flood.forEach(({ socket }) => socket.destroy()))
  await until('connections past the limit to be refused', () => flood.some(({ received }) => received.includes('HTTP/1.1 503')))
  // Enough for the log to go on in other files.
  for (let i = 0; i < 40; i++) {
    client.doc.getText('t').insert(0, `${i} ${String(i % 10).repeat(100_000)}`)
    client.doc.getText('t').delete(10, 90_000)
    await until('an edit to be acknowledged', () => client.durable || client.closed || !server.alive, 5000)
    assert.equal(client.closed, null, server.log)
    assert.ok(server.alive, server.log)
  }

  flood.forEach(({ socket }) => socket.destroy())
  await until('a new connection to be served', () => write(server, 'after', 'text', ledger).then(() => true, () => false), 15_000)
  await assertHealthy(server)
  assert.ok((await metric(server, 'collabblocks_accept_errors_total')) > 0)
  await client.close()
  await assertKept(server, ledger)
})

// A disk that fills up while clients write: updates are refused with 1013, reading works, nothing
// acknowledged is lost, and writing goes on once there is space.
import assert from 'node:assert/strict'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { smallDisk } from './lib/disk.mjs'
import { assertKept, newLedger, record } from './lib/ledger.mjs'
import { SyncClient } from './lib/raw.mjs'
import { assertHealthy, OURS_ONLY, refusedStart, startServer, tempDir } from './lib/server.mjs'
import { until } from './lib/until.mjs'
import { SMALL_SEGMENTS, write } from './lib/writing.mjs'

const MIB = 1024 * 1024
const EXIT_UNAVAILABLE = 69
const REFUSED_MS_MAX = 15_000
/** The server looks once a second while space is short. */
const NOTICED_MS = 2500

/** Writes into `room` over and over, with a new connection after each refusal; keeps the close codes. */
function writer(server, room, ledger) {
  const codes = []
  let stopped = false
  const running = (async () => {
    while (!stopped && server.alive) {
      const client = new SyncClient(server.ws, room)
      record(ledger, room, client)
      await client.opened.catch(() => {})
      while (!stopped && !client.closed) {
        if (client.synced && client.durable) {
          const text = client.doc.getText('t')
          text.insert(0, `${codes.length} ${'z'.repeat(100_000)}`)
          text.delete(5, 99_000)
        }
        await sleep(5)
      }
      if (client.closed) codes.push(client.closed.code)
      client.destroy()
      await sleep(50)
    }
  })()
  return {
    codes,
    async stop() {
      stopped = true
      await running
    },
  }
}

async function assertReads(server, room, part) {
  const reader = new SyncClient(server.ws, room)
  try {
    await until('a reader to be synced', () => reader.caughtUp, 5000)
    assert.ok(reader.doc.getText('t').toString().includes(part))
    await sleep(200)
    assert.equal(reader.closed, null, 'who only reads is not closed')
  } finally {
    reader.destroy()
  }
}

describe('a full disk', { skip: OURS_ONLY }, () => {
  for (const { what, reserve, leave } of [
    { what: 'less left than the reserve', reserve: 16 * MIB, leave: 12 * MIB },
    { what: 'nothing left at all', reserve: 0, leave: 0 },
  ]) {
    test(`filled up while clients write: ${what}`, { timeout: 90_000 }, async (t) => {
      const disk = await smallDisk(96)
      if (disk.refused) return t.skip(`${disk.refused}; below the reserve is tested without one`)
      const args = [...SMALL_SEGMENTS, '--wal-segments-max', '4', '--snapshots-disk-reserve-bytes', String(reserve)]
      const options = { data: join(disk.dir, 'data'), cores: 1, args }
      let server
      let writers = []
      t.after(async () => {
        await Promise.all(writers.map((each) => each.stop()))
        await server?.stop()
        await disk.release()
      })
      server = await startServer(options)
      const ledger = newLedger()
      await write(server, 'quiet', 'written before', ledger)
      writers = ['one', 'two'].map((room) => writer(server, room, ledger))
      await until('the writers to be acknowledged', () => ledger.get('one')?.length > 3 && ledger.get('two')?.length > 3)

      await disk.fill(leave)
      await until('updates to be refused', () => writers.every(({ codes }) => codes.length > 1), REFUSED_MS_MAX)
      await assertReads(server, 'quiet', 'written before')
      await assertHealthy(server)
      await Promise.all(writers.map((each) => each.stop()))
      for (const { codes } of writers) assert.deepEqual(new Set(codes), new Set([1013]), server.log)
      await assertKept(server, ledger)

      await disk.empty()
      // By itself, whether or not anybody tries.
      await sleep(NOTICED_MS)
      for (const room of ['quiet', 'one', 'new']) {
        await write(server, room, `afterwards ${'w'.repeat(100_000)}`, ledger)
      }
      writers = ['one', 'two'].map((room) => writer(server, room, ledger))
      const before = ledger.get('two').length
      await until('the writers to go on', () => ledger.get('two').length > before + 40, 20_000)
      await Promise.all(writers.map((each) => each.stop()))
      assert.deepEqual(writers.flatMap(({ codes }) => codes), [], server.log)

      // A start on the full disk, after a kill and in order.
      for (const end of ['kill', 'terminate']) {
        await disk.fill(leave)
        const { code } = await server[end]()
        if (end === 'terminate') assert.equal(code, 0, server.log)
        // What the server still had at work as the disk filled up may have given space back.
        await disk.fill(leave)
        // Nothing needs to be written to be read from.
        server = await startServer(options)
        assert.match(server.log, leave === 0 ? /the disk .* is full/ : /less than snapshots\.disk_reserve_bytes/)
        await assertKept(server, ledger)
        await assertReads(server, 'quiet', 'written before')
        await disk.empty()
        await sleep(NOTICED_MS)
        await write(server, 'new', `after ${end} `, ledger)
      }
    })
  }

  test('a new store on a full disk', async (t) => {
    const disk = await smallDisk(96)
    if (disk.refused) return t.skip(disk.refused)
    t.after(() => disk.release())
    // With and without a reserve, and in the root of the disk, beside its lost+found.
    for (const [data, reserve, leave] of [
      [disk.dir, 64 * MIB, 16 * MIB],
      [join(disk.dir, 'data'), 0, MIB],
      [disk.dir, 0, 0],
    ]) {
      await disk.fill(leave)
      const args = [...SMALL_SEGMENTS, '--snapshots-disk-reserve-bytes', String(reserve)]
      const { code, signal, output } = await refusedStart({ data, cores: 1, args })
      assert.deepEqual({ code, signal }, { code: EXIT_UNAVAILABLE, signal: null }, output)
      assert.match(output, /free some space/)
    }
    await disk.empty()
    const server = await startServer({ data: disk.dir, cores: 1, args: [...SMALL_SEGMENTS, '--snapshots-disk-reserve-bytes', '0'] })
    t.after(() => server.stop())
    await write(server, 'room', 'text')
  })

  test('less free than the reserve from the start', async (t) => {
    const data = await tempDir('reserve')
    t.after(() => rm(data, { recursive: true, force: true }))
    const ledger = newLedger()
    const first = await startServer({ data, cores: 1 })
    await write(first, 'room', 'written before', ledger)
    await first.stop()

    // More than any disk of a test has.
    const args = ['--snapshots-disk-reserve-bytes', String(2 ** 46)]
    const short = await startServer({ data, cores: 1, args })
    try {
      await assertReads(short, 'room', 'written before')
      await assert.rejects(write(short, 'room', 'refused'), /1013 .*disk/)
      assert.match(short.log, /snapshots\.disk_reserve_bytes/)
      await assertHealthy(short)
    } finally {
      await short.stop()
    }
    const refused = await refusedStart({ data: join(data, 'new'), cores: 1, args })
    assert.equal(refused.code, EXIT_UNAVAILABLE, refused.output)
    assert.match(refused.output, /free some space/)

    const again = await startServer({ data, cores: 1 })
    t.after(() => again.stop())
    await assertKept(again, ledger)
    await write(again, 'room', 'taken ', ledger)
  })
})

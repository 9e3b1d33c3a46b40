// Files of the data directory that were changed behind the server's back: what was acknowledged is
// never cut off, a refusal changes nothing and says where to look, a torn tail opens.
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { copyFile, cp, rm, stat, truncate } from 'node:fs/promises'
import { dirname } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { fingerprint, filesOf } from './lib/files.mjs'
import { assertKept, newLedger } from './lib/ledger.mjs'
import { batches, flipBit, fromTheFuture, logSegments, overwrite, segmentFromTheFuture, snapshotSegments } from './lib/log-bytes.mjs'
import { RawClient } from './lib/raw.mjs'
import { metric, OURS_ONLY, refusedStart, run, startServer, tempDir } from './lib/server.mjs'
import { until } from './lib/until.mjs'
import { SMALL_SEGMENTS, write } from './lib/writing.mjs'

const EXIT_UNAVAILABLE = 69
const ROOMS = ['first', 'second', 'third/with%20name']
/** Longer than the log waits before it seals its last batch. */
const SEALED_MS = 300

/** Fails unless the start on `data` ends with a refusal that has all of `parts` and changes nothing. */
async function assertRefused(data, ...parts) {
  const before = await fingerprint(data)
  const { code, signal, output } = await refusedStart({ data, cores: 1, args: SMALL_SEGMENTS })
  assert.deepEqual({ code, signal }, { code: EXIT_UNAVAILABLE, signal: null }, output)
  const errors = output.split('\n').filter((line) => line.includes('"level":"ERROR"'))
  assert.equal(errors.length, 1, output)
  const { message } = JSON.parse(errors[0])
  for (const part of parts) assert.ok(message.includes(part), `"${part}" is missing in: ${message}`)
  assert.deepEqual(await fingerprint(data), before, 'a refusal changes nothing')
  return message
}

async function assertOpens(data, ledger) {
  const server = await startServer({ data, cores: 1, args: SMALL_SEGMENTS })
  try {
    await assertKept(server, ledger)
    await write(server, ROOMS[0], 'goes on ', ledger)
  } finally {
    await server.stop()
  }
}

/** A store that was written by `fill` and then killed; each test works on a copy of it. */
async function makeStore(name, args, fill) {
  const data = await tempDir(name)
  const ledger = newLedger(ROOMS)
  const server = await startServer({ data, cores: 1, args: [...SMALL_SEGMENTS, ...args] })
  try {
    await fill(server, ledger)
    await sleep(SEALED_MS)
  } finally {
    await server.kill()
  }
  return {
    ledger: () => new Map([...ledger].map(([room, updates]) => [room, [...updates]])),
    async copy(t) {
      const dir = await tempDir(name)
      t.after(() => rm(dir, { recursive: true, force: true }))
      await cp(data, dir, { recursive: true })
      return dir
    },
    remove: () => rm(data, { recursive: true, force: true }),
  }
}

describe('a damaged log', { skip: OURS_ONLY }, () => {
  let store
  before(async () => {
    store = await makeStore('damage', [], async (server, ledger) => {
      for (let i = 0; i < 15; i++) {
        for (const room of ROOMS) await write(server, room, `${i} ${'x'.repeat(80_000)} `, ledger)
      }
    })
  })
  after(() => store?.remove())

  test('undamaged, it opens and everything acknowledged is there', async (t) => {
    const data = await store.copy(t)
    const verified = await run(['wal', 'verify', data])
    assert.equal(verified.code, 0, verified.output)
    assert.match(verified.output, /shard 0: ok, \d+ records/)
    await assertOpens(data, store.ledger())
  })

  test('a bit flipped in the middle', async (t) => {
    const data = await store.copy(t)
    const [segment] = await logSegments(data)
    const found = await batches(segment)
    const batch = found[found.length >> 1]
    const places = { 'the header': 20, 'the records': 128 + (batch.payload >> 1), 'the end of the records': 128 + batch.payload - 1 }
    for (const [what, at] of Object.entries(places)) {
      await flipBit(segment, batch.offset + at)
      const message = await assertRefused(data, segment, 'acknowledged data is damaged at LSN', 'collabblocks wal')
      for (const room of ROOMS) assert.ok(message.includes(JSON.stringify(room)), `${what}: ${room} is not named in: ${message}`)
      const lsn = Number(/at LSN (\d+)/.exec(message)[1])
      const segmentBytes = (await stat(segment)).size
      assert.ok(lsn >= segmentBytes + batch.offset && lsn < segmentBytes + batch.end, `${what}: LSN ${lsn}`)

      const verified = await run(['wal', 'verify', data])
      assert.equal(verified.code, 1, verified.output)
      assert.ok(verified.output.includes('REFUSED') && verified.output.includes(`LSN ${lsn}`), verified.output)
      const inspected = await run(['wal', 'inspect', '--batches', data])
      // A header that cannot be read is no batch to inspect; its neighbours are listed.
      if (at >= 128) {
        assert.equal(inspected.code, 1, inspected.output)
        assert.match(inspected.output, /1 DAMAGED/)
      }
      assert.ok(inspected.output.includes(`batch at LSN ${segmentBytes + batch.end}`), inspected.output)
      await flipBit(segment, batch.offset + at)
    }
    await assertOpens(data, store.ledger())
  })

  test('a bit flipped in a segment’s header', async (t) => {
    const data = await store.copy(t)
    const [, segment] = await logSegments(data)
    await flipBit(segment, 30)
    await assertRefused(data, dirname(segment), 'damaged at LSN', 'collabblocks wal')
  })

  test('a torn tail', async (t) => {
    const data = await store.copy(t)
    const last = await lastWritten(data)
    const end = (await batches(last)).at(-1).end
    await overwrite(last, end, randomBytes(3 * 4096))
    const verified = await run(['wal', 'verify', data])
    assert.equal(verified.code, 0, verified.output)
    assert.match(verified.output, /a torn tail at LSN \d+ would be cut off/)
    await assertOpens(data, store.ledger())
    const again = await run(['wal', 'verify', data])
    assert.match(again.output, /closed in order/)
  })

  test('half of a batch at the end', async (t) => {
    const data = await store.copy(t)
    const last = await lastWritten(data)
    const written = await batches(last)
    // As if the batch before the seal had been torn: nothing was acknowledged behind it.
    const { offset, end } = written.at(-1)
    await overwrite(last, end - 4096 + 128, Buffer.alloc(4096 - 128))
    assert.ok(end - offset === 4096, 'the seal is one block')
    await assertOpens(data, store.ledger())
  })

  test('a segment missing in the middle', async (t) => {
    const data = await store.copy(t)
    const segments = await logSegments(data)
    assert.ok(segments.length >= 4, `${segments.length} segments`)
    await rm(segments[1])
    await assertRefused(data, segments[1], 'damaged', 'LSN', 'collabblocks wal')
  })

  test('a segment cut short', async (t) => {
    const data = await store.copy(t)
    const [, segment] = await logSegments(data)
    await truncate(segment, 300_000)
    await assertRefused(data, segment, 'damaged', 'LSN', 'collabblocks wal')
  })

  test('a segment in another’s place', async (t) => {
    const data = await store.copy(t)
    const segments = await logSegments(data)
    await copyFile(segments[0], segments[1])
    await assertRefused(data, dirname(segments[1]), 'damaged at LSN', 'collabblocks wal')
  })

  test('files from the future', async (t) => {
    for (const name of ['store', 'manifest-a', 'manifest-b']) {
      const data = await store.copy(t)
      const path = (await filesOf(data)).find((file) => file.endsWith(`/${name}`))
      if (path === undefined) continue
      await fromTheFuture(path)
      await assertRefused(data, path, 'newer', 'use the program that wrote it')
    }
    const data = await store.copy(t)
    const [segment] = await logSegments(data)
    await segmentFromTheFuture(segment)
    await assertRefused(data, segment, 'newer', 'use the program that wrote it')
  })

  test('a store file or manifest that cannot be read, or is gone', async (t) => {
    for (const name of ['store', 'manifest-b']) {
      const data = await store.copy(t)
      const path = (await filesOf(data)).find((file) => file.endsWith(`/${name}`))
      await flipBit(path, 40)
      await assertRefused(data, dirname(path), 'from a backup')
      await rm(path)
      await assertRefused(data, dirname(path), 'missing', 'from a backup')
    }
  })
})

/** The last segment that has a batch. */
async function lastWritten(data) {
  let last
  for (const segment of await logSegments(data)) if ((await batches(segment)).length > 0) last = segment
  return last
}

describe('damaged snapshots', { skip: OURS_ONLY }, () => {
  let store
  before(async () => {
    const args = ['--snapshots-evict-after-s', '1', '--wal-segments-max', '2']
    store = await makeStore('snapshots', args, async (server, ledger) => {
      for (const room of ROOMS) await write(server, room, `snapshotted ${randomBytes(20_000).toString('hex')}`, ledger)
      await until('all rooms to be evicted', async () => (await metric(server, 'collabblocks_rooms_loaded')) === 0, 20_000)
      // The log has to go on until it no longer begins with these rooms.
      await until('a manifest that names the snapshots', async () => {
        await write(server, 'filler', `${'y'.repeat(200_000)}`, ledger)
        const [oldest] = await logSegments(server.data)
        return !oldest.endsWith('0000000000000001.wal')
      }, 20_000)
    })
  })
  after(() => store?.remove())

  test('undamaged, they open', async (t) => {
    await assertOpens(await store.copy(t), store.ledger())
  })

  test('a snapshot segment cut short, or gone', async (t) => {
    const data = await store.copy(t)
    const [segment] = await snapshotSegments(data)
    await truncate(segment, 8192)
    await assertRefused(data, segment, 'damaged')
    await rm(segment)
    await assertRefused(data, segment)
  })

  test('a snapshot segment from the future', async (t) => {
    const data = await store.copy(t)
    const [segment] = await snapshotSegments(data)
    await fromTheFuture(segment)
    await assertRefused(data, segment, 'newer')
  })

  test('a bit flipped in one room’s snapshot fails that room alone', async (t) => {
    const data = await store.copy(t)
    const [segment] = await snapshotSegments(data)
    // The first room's entry is the first of the first batch; its payload is most of it.
    await flipBit(segment, 4096 + 4096)
    const before = await fingerprint(data)
    const server = await startServer({ data, cores: 1, args: SMALL_SEGMENTS })
    t.after(() => server.stop())
    const closed = []
    for (const room of ROOMS) {
      const client = new RawClient(server.ws, room)
      t.after(() => client.destroy())
      await client.opened
      await until(`an answer in ${room}`, () => client.closed || client.messages('step1').length > 0)
      if (client.closed) closed.push([room, client.closed.code])
    }
    assert.deepEqual(closed.map(([, code]) => code), [1011], server.log)
    const others = store.ledger()
    others.delete(closed[0][0])
    await assertKept(server, others)
    const [name] = Object.keys(before).filter((path) => path.endsWith('.snap'))
    assert.equal((await fingerprint(data))[name], before[name], 'nothing is written over it')
  })
})

// Large updates and large documents: all get the same, and how long the core took for its longest turn
// is printed. That other rooms do not wait is tested where time stands still: server/tests/shard/apart.rs. With COLLABBLOCKS_LONG=1 larger ones, too.
// What takes longer than it may ends the process, and its room is in quarantine.
import assert from 'node:assert/strict'
import { readFile, rm, writeFile } from 'node:fs/promises'
import { describe, test } from 'node:test'
import * as encoding from 'lib0/encoding'
import * as Y from 'yjs'
import { snapshot } from './lib/ledger.mjs'
import { frames, RawClient, SyncClient } from './lib/raw.mjs'
import { assertHealthy, metric, OURS_ONLY, startServer, tempDir } from './lib/server.mjs'
import { until } from './lib/until.mjs'
import { write } from './lib/writing.mjs'

const LONG = process.env.COLLABBLOCKS_LONG === '1'
const SYNCED_MS_MAX = 60_000

function made(build) {
  const doc = new Y.Doc()
  doc.transact(() => build(doc))
  return Y.encodeStateAsUpdate(doc)
}

const text = (bytes) => made((doc) => doc.getText('t').insert(0, 'x'.repeat(bytes)))
/** Each character is a struct of its own. */
const backwards = (count) =>
  made((doc) => {
    const content = doc.getText('t')
    for (let i = 0; i < count; i++) content.insert(0, 'a')
  })
const map = (count) =>
  made((doc) => {
    const content = doc.getMap('m')
    for (let i = 0; i < count; i++) content.set(`key ${i}`, i)
  })

/** A character of each of so many clients, at one place, none of whom knew of another one: to find its place each passes those of smaller numbers. */
function heap(first, clients) {
  const encoder = encoding.createEncoder()
  encoding.writeVarUint(encoder, clients)
  for (let client = first + clients - 1; client >= first; client--) {
    for (const uint of [1, client, 0]) encoding.writeVarUint(encoder, uint)
    encoding.writeUint8(encoder, 4)
    encoding.writeVarUint(encoder, 1)
    encoding.writeVarString(encoder, 'heap')
    encoding.writeVarString(encoder, 'x')
  }
  encoding.writeVarUint(encoder, 0)
  return encoding.toUint8Array(encoder)
}

async function opened(server, room = 'large') {
  const client = new SyncClient(server.ws, room)
  await client.opened
  await until('the large room to be synced', () => client.caughtUp || client.closed, SYNCED_MS_MAX)
  assert.equal(client.closed, null)
  return client
}

const peakRss = async (server) => {
  const status = await readFile(`/proc/${server.pid}/status`, 'utf8')
  return Number(status.match(/^VmHWM:\s+(\d+) kB/m)[1]) * 1024
}

const longestMs = async (server) => ((await metric(server, 'collabblocks_turn_seconds_max')) * 1000).toFixed(1)

describe('large work on a document', { skip: OURS_ONLY }, () => {
  for (const [what, build] of [
    ['20 MB of text', () => text(20e6)],
    ['100,000 characters, one by one', () => backwards(1e5)],
    ...(LONG
      ? [
          ['31 MB of text', () => text(31e6)],
          ['900,000 characters, one by one', () => backwards(9e5)],
          ['a map of 300,000 keys', () => map(3e5)],
        ]
      : []),
  ]) {
    test(what, { timeout: 180_000 }, async (t) => {
      const update = build()
      const data = await tempDir('large')
      let server = await startServer({ data, cores: 1 })
      t.after(async () => {
        await server.stop()
        await rm(data, { recursive: true, force: true })
      })
      const author = await opened(server)
      Y.applyUpdate(author.doc, update)
      await write(server, 'other', 'meanwhile ')
      await until('the update to be acknowledged', () => author.durable || author.closed, SYNCED_MS_MAX)
      assert.equal(author.closed, null)
      const applied = await longestMs(server)
      const joiner = await opened(server)
      assert.equal(snapshot(joiner.doc), snapshot(author.doc))
      const joined = await longestMs(server)
      joiner.destroy()
      author.destroy()
      await server.terminate()
      server = await startServer({ data, cores: 1 })
      const again = await opened(server)
      assert.equal(snapshot(again.doc), snapshot(author.doc))
      t.diagnostic(
        `${(update.length / 1e6).toFixed(1)} MB, longest turn in ms: applied ${applied}, joined ${joined}; ` +
          `opened and joined after a restart ${await longestMs(server)}`,
      )
      again.destroy()
      await assertHealthy(server)
    })
  }

  test('many who have stopped reading cost no more memory than one', { timeout: 180_000 }, async (t) => {
    const STALLED = 60
    const BYTES = 10e6
    const server = await startServer({ cores: 1 })
    t.after(() => server.stop())
    const author = await opened(server)
    const reader = await opened(server)
    const stalled = []
    for (let i = 0; i < STALLED; i++) stalled.push(await opened(server))
    for (const { socket } of stalled) socket.pause()
    // From here on the peak is that of the update.
    await writeFile(`/proc/${server.pid}/clear_refs`, '5')
    const before = await peakRss(server)
    Y.applyUpdate(author.doc, text(BYTES))
    await until('the update to be acknowledged', () => author.durable || author.closed, SYNCED_MS_MAX)
    const same = (client) => client.doc.getText('t').length === BYTES
    await until('the reader to have it', () => same(reader), SYNCED_MS_MAX)
    const grown = (await peakRss(server)) - before
    t.diagnostic(`${STALLED} stalled, ${BYTES / 1e6} MB: ${(grown / 1e6).toFixed(0)} MB more at the peak`)
    // The update, the document, a job's and the log's copies, and slices on their way.
    assert.ok(grown < 8 * BYTES + STALLED * 256 * 1024, `${grown} bytes more`)
    stalled[0].socket.resume()
    await until('one that reads again to have it', () => same(stalled[0]), SYNCED_MS_MAX)
    for (const client of [author, reader, ...stalled]) client.destroy()
    await assertHealthy(server)
  })

  test('large work that does not come back in time', { timeout: 180_000 }, async (t) => {
    // Nothing is known that never comes back. A part of this update takes more than half a second, and may take fewer.
    const data = await tempDir('stuck')
    const room = 'stuck%20room'
    let server = await startServer({ data, cores: 2 })
    t.after(async () => {
      await server.stop()
      await rm(data, { recursive: true, force: true })
    })
    await write(server, 'other', 'before ')
    const author = await opened(server, room)
    t.after(() => author.destroy())
    let echoed = false
    author.onUpdate = () => (echoed = true)
    author.send(frames.update(heap(1e6, 10_000)))
    await until('the update to be acknowledged', () => echoed || author.closed, SYNCED_MS_MAX)
    assert.equal(author.closed, null)
    assert.equal((await server.terminate()).code, 0, server.log)

    server = await startServer({ data, cores: 2, args: ['--limits-watchdog-job-exit-ms', '100'] })
    const stuck = await opened(server, room)
    t.after(() => stuck.destroy())
    stuck.send(frames.update(heap(2e6, 3_000)))
    const { code } = await server.exited
    assert.equal(code, 70, server.log)
    assert.match(server.log, /large work on a document has taken \d+ ms, in room [^\n]*stuck%20room/)
    assert.match(await readFile(`${data}/quarantine`, 'utf8'), /^stuck%20room\tit held a file worker for \d+ ms/m)

    server = await startServer({ data, cores: 2 })
    const refused = new RawClient(server.ws, room)
    assert.equal((await refused.waitClosed()).code, 1011)
    assert.equal(await write(server, 'other', 'after, '), 'after, before ')
    assert.equal((await server.terminate()).code, 0, server.log)

    // Released, and with time enough.
    await rm(`${data}/quarantine`)
    server = await startServer({ data, cores: 2 })
    const again = await opened(server, room)
    t.after(() => again.destroy())
    assert.equal(again.doc.getText('heap').length, 10_000, 'what was acknowledged')
    await assertHealthy(server)
  })

  test('an update that takes too long is given up', { timeout: 180_000 }, async (t) => {
    const server = await startServer({ cores: 1, args: ['--limits-watchdog-job-exit-ms', '6000'] })
    t.after(() => server.stop())
    const room = 'busy'
    const author = await opened(server, room)
    author.doc.getText('t').insert(0, 'before ')
    await until('it to be acknowledged', () => author.durable || author.closed)
    author.send(frames.update(heap(1e6, 10_000)))
    // Each of these passes all of those, which is some 20 s of work.
    author.send(frames.update(heap(2e6, 30_000)))
    const { code } = await author.waitClosed(SYNCED_MS_MAX)
    assert.equal(code, 4413, server.log)
    const after = await opened(server, room)
    t.after(() => after.destroy())
    assert.equal(after.doc.getText('t').toString(), 'before ', 'nothing else has changed')
    assert.equal(after.doc.getText('heap').length, 10_000)
    await assertHealthy(server)
  })
})

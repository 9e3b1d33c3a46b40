// Many joins of a large document at once: the server holds it once, not once for each of them.
import assert from 'node:assert/strict'
import { readFile, writeFile } from 'node:fs/promises'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import WebSocket from 'ws'
import * as Y from 'yjs'
import { connect, leave, synced, VERSIONS } from './lib/providers.mjs'
import { SyncClient, frames } from './lib/raw.mjs'
import { assertHealthy, metric, OURS_ONLY, startServer } from './lib/server.mjs'
import { until } from './lib/until.mjs'

const LONG = process.env.COLLABBLOCKS_LONG === '1'
const JOINS = LONG ? 150 : 30
const BYTES = LONG ? 20_000_000 : 4_000_000
const MIB = 1 << 20

/** A text in many formatted pieces. With marks, Yjs must get it in one message. */
function formatted(bytes) {
  const doc = new Y.Doc()
  const text = doc.getText('text')
  const piece = 'The quick brown fox jumps over the lazy dog. '.repeat(200)
  doc.transact(() => {
    for (let at = 0; at < bytes; at += piece.length) text.insert(text.length, piece, { bold: at % 2 ? true : null })
  })
  return doc
}

/** Joins as a provider does, keeps no more than the size of the answer and its last bytes. */
async function join(url, room, vector) {
  const socket = new WebSocket(`${url}/${room}`)
  socket.binaryType = 'nodebuffer'
  const answer = new Promise((resolve, reject) => {
    socket.on('error', reject)
    socket.on('close', (code, reason) => reject(new Error(`closed with ${code} ${reason}`)))
    socket.on('message', (data) => {
      if (data[0] === 0 && data[1] === 1) resolve({ bytes: data.length, end: data.subarray(-100).toString('hex') })
    })
  })
  await new Promise((resolve) => socket.on('open', resolve))
  socket.send(frames.step1(vector))
  try {
    return await answer
  } finally {
    socket.terminate()
  }
}

const rss = async (server, what = 'VmRSS') => {
  const status = await readFile(`/proc/${server.pid}/status`, 'utf8')
  return Number(status.match(new RegExp(`^${what}:\\s+(\\d+) kB`, 'm'))[1]) * 1024
}

describe('joins of a large document', { skip: OURS_ONLY, timeout: 600_000 }, () => {
  let server
  let doc
  let held
  before(async () => {
    server = await startServer()
    doc = formatted(BYTES)
    const writer = new SyncClient(server.ws, 'large', doc)
    await until('the document to be stored', () => writer.echoed === writer.sent.length && writer.sent.length > 0, 60_000)
    writer.destroy()
    // The update itself is kept a while for those who are still to hear of it.
    await until('the update to be let go', async () => (await metric(server, 'collabblocks_answer_bytes')) === 0, 20_000)
    held = await rss(server)
    // From here on the peak is that of the joins.
    await writeFile(`/proc/${server.pid}/clear_refs`, '5')
  })
  after(() => server?.stop())

  test(`${JOINS} at once, at ${(BYTES / 1e6).toFixed(0)} MB`, async () => {
    const wanted = Y.encodeStateAsUpdate(doc).byteLength
    let distinct = 0
    let watching = true
    const watch = (async () => {
      while (watching) {
        distinct = Math.max(distinct, await metric(server, 'collabblocks_answer_bytes'))
        await sleep(20)
      }
    })()
    const began = performance.now()
    // Half of them know of a client that the room has never heard of.
    const joins = Array.from({ length: JOINS }, (_, n) => join(server.ws, 'large', n % 2 ? Uint8Array.of(1, n % 100, 3) : Uint8Array.of(0)))
    const answers = await Promise.all(joins)
    const took = performance.now() - began
    watching = false
    await watch
    for (const { bytes, end } of answers) {
      assert.ok(Math.abs(bytes - wanted) < 100, `${bytes} of ${wanted}`)
      assert.equal(end, answers[0].end)
    }
    const grown = (await rss(server, 'VmHWM')) - held
    console.log(
      `${JOINS} joins of ${(wanted / MIB).toFixed(1)} MiB in ${took.toFixed(0)} ms: ` +
        `${(distinct / MIB).toFixed(1)} MiB of answers, RSS ${(held / MIB).toFixed(0)} MiB and at most ${(grown / MIB).toFixed(0)} more`,
    )
    assert.ok(distinct < 1.5 * wanted, 'one answer for all')
    // The answer, once while it is made and once more; slices on their way; a turn's frames.
    const bound = 3 * wanted + JOINS * 256 * 1024 + 48 * MIB
    assert.ok(grown < bound, `${grown} bytes more, at most ${bound}`)
    await assertHealthy(server)
  })

  test('every provider reads it', async () => {
    const wanted = doc.getText('text').toString()
    for (const version of VERSIONS) {
      const client = await connect(version, server.ws, 'large')
      await synced(client, 60_000)
      if (version !== 'v4') assert.equal(client.doc.getText('text').toString() === wanted, true, version)
      leave(client)
    }
  })
})

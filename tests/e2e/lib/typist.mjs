// A client process of its own: joins a room, types its part of a history, and answers questions
// about its document. Driven by `spawnTypist` over the IPC channel.
import { createHash } from 'node:crypto'
import { setImmediate as turn } from 'node:timers/promises'
import { generate, readTrace } from './history.mjs'
import { connect, leave, synced } from './providers.mjs'

const TXNS_PER_TURN = 8

const { version, url, room, me } = JSON.parse(process.argv[2])
const client = await connect(version, url, room)
const { Y, doc } = client

/** JSON with sorted keys: an object's keys have no order in a document. */
function canonical(value) {
  const sorted = (_, v) => (v && typeof v === 'object' && !Array.isArray(v) ? Object.fromEntries(Object.entries(v).sort(([a], [b]) => (a < b ? -1 : 1))) : v)
  return JSON.stringify(value, sorted)
}

function report() {
  const texts = Object.fromEntries(['a', 'b', 'shared'].map((name) => [name, doc.getText(name).toString()]))
  return {
    content: createHash('sha256').update(canonical([texts, doc.getMap('map').toJSON(), doc.getArray('list').toJSON()])).digest('hex'),
    snapshot: Buffer.from(Y.encodeSnapshot(Y.snapshot(doc))).toString('base64'),
    pending: doc.store.pendingStructs !== null || doc.store.pendingDs !== null,
    texts: Object.fromEntries(Object.entries(texts).map(([name, text]) => [name, createHash('sha256').update(text).digest('hex')])),
  }
}

/** A place in `text` that exists now and, unless asked for, is not inside a surrogate pair. */
function place(content, at, split) {
  const index = at % (content.length + 1)
  const code = content.charCodeAt(index)
  return !split && code >= 0xdc00 && code <= 0xdfff ? index - 1 : index
}

function typeExactly(text, patches) {
  for (const [at, deleted, inserted] of patches) {
    if (deleted > 0) text.delete(at, deleted)
    if (inserted !== '') text.insert(at, inserted)
  }
}

function typeAnywhere(text, patches, split) {
  for (const [at, deleted, inserted] of patches) {
    const content = text.toString()
    const start = place(content, at, split)
    const end = place(content, Math.min(start + deleted, content.length), split)
    if (end > start) text.delete(start, end - start)
    if (inserted !== '') text.insert(start, inserted)
  }
}

/** One's own text gets a sequential history exactly; the shared one gets one's agents' part. */
async function type({ trace, split }) {
  const history = trace.path ? await readTrace(trace.path) : generate(trace)
  const exact = history.kind === 'sequential'
  const text = doc.getText(exact ? ['a', 'b'][me] : 'shared')
  const txns = history.txns.filter(({ agent }) => exact || agent % 2 === me).slice(0, trace.limit)
  for (const [index, { patches }] of txns.entries()) {
    doc.transact(() => {
      if (exact) typeExactly(text, patches)
      else typeAnywhere(text, patches, split)
      if (index % 50 === 0) doc.getMap('map').set(`k${index % 7}`, { by: me, index })
      if (index % 80 === 0) doc.getArray('list').insert(0, [index, 'x'.repeat(index % 5)])
      if (index % 90 === 0 && text.length > 4) text.format(text.length >> 1, 2, { bold: true })
    })
    if (index % TXNS_PER_TURN === 0) await turn()
  }
  return { typed: txns.length }
}

const answers = {
  synced: async () => ({ synced: await synced(client, 30_000).then(() => true) }),
  type,
  report,
  async leave() {
    leave(client)
    setImmediate(() => process.disconnect())
    return {}
  },
}

process.on('message', async ({ id, ask, ...details }) => {
  try {
    process.send({ id, answer: await answers[ask](details) })
  } catch (error) {
    process.send({ id, error: error.stack })
  }
})

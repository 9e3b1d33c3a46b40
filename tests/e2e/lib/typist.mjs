// A client process of its own: joins a room, types its part of a history, and answers questions
// about its document. Driven by `spawnTypist` over the IPC channel.
import { setImmediate as turn } from 'node:timers/promises'
import { contentOf } from './content.mjs'
import { generate, readTrace } from './history.mjs'
import { connect, leave, synced } from './providers.mjs'

const TXNS_PER_TURN = 8

const { version, url, room, me } = JSON.parse(process.argv[2])
const client = await connect(version, url, room)
const { Y, doc } = client

/** What this client told the server, in order. */
const sent = []
doc.on('update', (update, origin) => {
  if (origin !== client.provider) sent.push(Buffer.from(update).toString('base64'))
})

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

/** Marks in the middle of a text; on whole characters unless `inside` pairs is asked for. */
function format(text, inside) {
  const content = text.toString()
  const start = place(content, content.length >> 1, inside)
  const end = place(content, start + 2, inside)
  text.format(start, end - start, { bold: true })
}

/** One's own text gets a sequential history exactly; the shared one gets one's agents' part. */
async function type({ trace, split = false, marks = { every: 90, inside: false } }) {
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
      if (index % marks.every === 0 && text.length > 4) format(text, marks.inside)
    })
    if (index % TXNS_PER_TURN === 0) await turn()
  }
  return { typed: txns.length }
}

const answers = {
  synced: async () => ({ synced: await synced(client, 30_000).then(() => true) }),
  type,
  report: async () => contentOf(Y, doc),
  sent: async () => ({ updates: sent }),
  text: async () => ({ text: doc.getText('shared').toString() }),
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

// What a document holds, in forms that tests compare.
import { createHash } from 'node:crypto'

const TEXTS = ['a', 'b', 'shared']

const sha256 = (text) => createHash('sha256').update(text).digest('hex')

/** JSON with sorted keys: an object's keys have no order in a document. */
function canonical(value) {
  const sorted = (_, v) => (v && typeof v === 'object' && !Array.isArray(v) ? Object.fromEntries(Object.entries(v).sort(([a], [b]) => (a < b ? -1 : 1))) : v)
  return JSON.stringify(value, sorted)
}

/** Of a document that typists wrote in: hashes, its clocks and deletions, whether it lacks something. */
export function contentOf(Y, doc) {
  const texts = Object.fromEntries(TEXTS.map((name) => [name, doc.getText(name).toString()]))
  return {
    content: sha256(canonical([texts, doc.getMap('map').toJSON(), doc.getArray('list').toJSON()])),
    snapshot: Buffer.from(Y.encodeSnapshot(Y.snapshot(doc))).toString('base64'),
    pending: doc.store.pendingStructs !== null || doc.store.pendingDs !== null,
    texts: Object.fromEntries(Object.entries(texts).map(([name, text]) => [name, sha256(text)])),
  }
}

/** Whether two texts are equal but for halves of surrogate pairs, which one of them holds as U+FFFD. */
export function equalButForHalves(a, b) {
  const half = (unit) => unit >= 0xd800 && unit <= 0xdfff
  if (a.length !== b.length) return false
  for (let index = 0; index < a.length; index++) {
    const [one, other] = [a.charCodeAt(index), b.charCodeAt(index)]
    if (one !== other && !(one === 0xfffd && half(other)) && !(other === 0xfffd && half(one))) return false
  }
  return true
}

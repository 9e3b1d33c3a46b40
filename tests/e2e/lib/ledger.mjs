// What was acknowledged, and whether a server still has it.
import assert from 'node:assert/strict'
import * as Y from 'yjs'
import { SyncClient } from './raw.mjs'
import { until } from './until.mjs'

export const snapshot = (doc) => Buffer.from(Y.encodeSnapshot(Y.snapshot(doc))).toString('hex')

/** A ledger keeps, for each room, the updates that came back to whoever sent them. */
export function newLedger(rooms = []) {
  return new Map(rooms.map((room) => [room, []]))
}

/** Has every echo that `client` sees written down under `room`. */
export function record(ledger, room, client) {
  if (!ledger.has(room)) ledger.set(room, [])
  client.onUpdate = (update, echo) => {
    if (echo) ledger.get(room).push(update)
  }
}

/** A fresh client's document must not change by anything that was acknowledged. */
export async function assertKept(server, ledger) {
  for (const [room, updates] of ledger) {
    const reader = new SyncClient(server.ws, room)
    await reader.opened
    await until('the reader to be synced', () => reader.caughtUp)
    const { doc } = reader
    const before = snapshot(doc)
    const text = doc.getText('t').toString()
    for (const update of updates) Y.applyUpdate(doc, update, reader)
    assert.equal(snapshot(doc), before, `room ${room} lost acknowledged updates`)
    assert.equal(doc.getText('t').toString(), text)
    assert.equal(doc.store.pendingStructs, null, `room ${room} lacks what acknowledged updates build on`)
    assert.equal(doc.store.pendingDs, null)
    await reader.close()
  }
}

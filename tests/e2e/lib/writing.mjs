// Clients that write and wait for their acknowledgement.
import { record } from './ledger.mjs'
import { SyncClient } from './raw.mjs'
import { until } from './until.mjs'

/** Small log segments, so that a test fills many; with the update cap that has to go with them. */
export const SMALL_SEGMENTS = ['--wal-segment-bytes', '1048576', '--limits-update-bytes-max', '524288']

/** Writes `text` at the start of a room's text as a new client; returns what stands there once it is acknowledged. */
export async function write(server, room, text, ledger) {
  const client = new SyncClient(server.ws, room)
  if (ledger) record(ledger, room, client)
  try {
    await client.opened
    await until(`${room} to be synced`, () => gone(client) || (client.synced && client.caughtUp))
    if (text !== '') client.doc.getText('t').insert(0, text)
    await until(`an edit in ${room} to be acknowledged`, () => gone(client) || client.durable)
    await client.close()
    return client.doc.getText('t').toString()
  } finally {
    client.destroy()
  }
}

function gone({ closed }) {
  if (closed) throw new Error(`closed with ${closed.code} ${closed.reason}`)
  return false
}

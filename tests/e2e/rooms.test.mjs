// Big documents, and what counts as a room's name.
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { connect, leave, synced, VERSIONS } from './lib/providers.mjs'
import { SyncClient } from './lib/raw.mjs'
import { OURS_ONLY, startServer } from './lib/server.mjs'
import { CAUSES, expectClosed, expectRefused } from './lib/refusals.mjs'
import { until } from './lib/until.mjs'

const BIG_BYTES = Number(process.env.COLLABBLOCKS_BIG_BYTES ?? 5_000_000)
const LINE = 'Sphinx of black quartz, judge my vow. 0123456789 abcdefghijklmnopqrstuvwxyz\n'

describe('rooms', { concurrency: false }, () => {
  let server
  before(async () => {
    server = await startServer()
  })
  after(() => server?.stop())

  async function open(t, version, room) {
    const client = await connect(version, server.ws, room)
    t.after(() => leave(client))
    await synced(client, 30_000)
    return client
  }

  test('a big document opens in every client', { timeout: 120_000 }, async (t) => {
    const text = LINE.repeat(Math.ceil(BIG_BYTES / LINE.length))
    const author = new SyncClient(server.ws, 'big')
    t.after(() => author.destroy())
    await until('the author to be synced', () => author.synced)
    const chunk = 256 * 1024
    for (let at = 0; at < text.length; at += chunk) author.doc.getText('t').insert(at, text.slice(at, at + chunk))
    author.doc.getText('t').delete(10, 20)
    const expected = author.doc.getText('t').toString()
    await until('the document to be taken in', () => author.durable, 60_000)
    for (const version of VERSIONS) {
      const client = await open(t, version, 'big')
      assert.ok(client.doc.getText('t').toString() === expected, `${version} has another text`)
      leave(client)
    }
  })

  // An address parser escapes what a provider does not. Each pair of spellings is one room.
  for (const [typed, sent] of [
    ['a b/ü', '/a%20b/%C3%BC'],
    ['plain', '/plain'],
    ['deep/er/still', '/deep/er/still'],
    ['mail@host:1,2;x=y', '/mail@host:1,2;x=y'],
    ['100%25', '/100%25'],
    ['日本語', '/%E6%97%A5%E6%9C%AC%E8%AA%9E'],
  ]) {
    test(`room ${typed}`, async (t) => {
      const client = await open(t, 'v3', typed)
      client.doc.getText('t').insert(0, typed)
      const raw = new SyncClient(server.ws, sent.slice(1))
      t.after(() => raw.destroy())
      await until('the same room by its escaped name', () => raw.doc.getText('t').toString() === typed)
    })
  }

  test('parameters are not part of the name', async (t) => {
    const client = await open(t, 'v3', 'params')
    client.doc.getText('t').insert(0, 'same')
    const other = await connect('v3', server.ws, 'params', { provider: { params: { token: 'x y' } } })
    t.after(() => leave(other))
    await until('the same text', () => other.doc.getText('t').toString() === 'same')
  })

  test('names that differ in escaping alone are different rooms', async (t) => {
    const client = await open(t, 'v3', 'x%2Fy')
    client.doc.getText('t').insert(0, 'escaped')
    await until('to be there', () => client.provider.synced)
    const other = await open(t, 'v3', 'x/y')
    assert.equal(other.doc.getText('t').toString(), '')
  })

  for (const [cause, room] of [
    ['emptyRoom', ''],
    ['longRoom', 'r'.repeat(5000)],
  ]) {
    test(CAUSES[cause].what, { skip: OURS_ONLY }, () => expectClosed(server, room, cause))
  }

  test(CAUSES.reservedRoom.what, { skip: OURS_ONLY }, () => expectRefused(server, 'reservedRoom'))
})

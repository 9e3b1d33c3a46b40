// Two client processes type a long history into one room at once and end equal, to each other and
// to a third that only reads. COLLABBLOCKS_TXNS sets the length, COLLABBLOCKS_TRACE (or
// `node two-clients.test.mjs --trace FILE`) takes a recorded history instead of a made one.
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { after, before, describe, test } from 'node:test'
import { parseArgs } from 'node:util'
import { generate, readTrace } from './lib/history.mjs'
import { VERSIONS } from './lib/providers.mjs'
import { runSeed } from './lib/random.mjs'
import { startServer } from './lib/server.mjs'
import { converge, spawnTypist } from './lib/typists.mjs'

const { values: flags } = parseArgs({ options: { trace: { type: 'string' } }, strict: false })
const TRACE = flags.trace ?? process.env.COLLABBLOCKS_TRACE
const TXNS = Number(process.env.COLLABBLOCKS_TXNS ?? 1500)
const CONVERGE_MS_MAX = Math.max(20_000, TXNS * 10)

describe('two client processes in one room', { concurrency: false }, () => {
  let server
  before(async () => {
    server = await startServer()
  })
  after(() => server?.stop())

  async function typeTogether(t, versions, trace, split = false) {
    const room = t.name.replaceAll(/[^a-z0-9]+/gi, '-')
    const history = trace.path ? await readTrace(trace.path) : generate(trace)
    const typists = versions.map((version, me) => spawnTypist({ version, url: server.ws, room, me }))
    t.after(() => {
      for (const typist of typists) typist.kill()
    })
    await Promise.all(typists.map((typist) => typist.ask('synced')))
    const typed = await Promise.all(typists.map((typist) => typist.ask('type', { trace, split })))
    assert.ok(typed.every((part) => part.typed > 0))
    await converge(typists, CONVERGE_MS_MAX)

    const third = spawnTypist({ version: versions[0], url: server.ws, room })
    typists.push(third)
    await third.ask('synced')
    const end = await converge(typists, CONVERGE_MS_MAX)
    if (history.endContent !== undefined && trace.limit === undefined) {
      const expected = createHash('sha256').update(history.endContent).digest('hex')
      assert.deepEqual([end.texts.a, end.texts.b], [expected, expected])
    }
    await Promise.all(typists.map((typist) => typist.ask('leave')))
  }

  if (TRACE) {
    for (const version of VERSIONS) {
      test(`trace ${version}`, (t) => typeTogether(t, [version, version], { path: TRACE }))
    }
    return
  }

  const seed = runSeed()
  for (const kind of ['sequential', 'concurrent']) {
    for (const version of VERSIONS) {
      test(`${kind} ${version}`, (t) => {
        t.diagnostic(`COLLABBLOCKS_SEED=${seed}`)
        return typeTogether(t, [version, version], { kind, seed, txns: TXNS })
      })
    }
  }

  test('the oldest and the newest client together', (t) => {
    t.diagnostic(`COLLABBLOCKS_SEED=${seed}`)
    return typeTogether(t, ['v1', 'v3'], { kind: 'concurrent', seed: seed + 1, txns: TXNS })
  })

  // Yjs turns both halves of a split pair into U+FFFD, on whichever replica holds them whole.
  test('edits inside surrogate pairs', (t) => {
    t.diagnostic(`COLLABBLOCKS_SEED=${seed}`)
    return typeTogether(t, ['v3', 'v3'], { kind: 'concurrent', seed: seed + 2, txns: TXNS }, true)
  })
})

// The script of docs/upgrading-from-y-websocket.md, as it stands there: from the reference server to ours.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { readFile, rm, writeFile } from 'node:fs/promises'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { connect, leave, synced } from './lib/providers.mjs'
import { freePort, OURS_ONLY, startServer } from './lib/server.mjs'
import { until } from './lib/until.mjs'

const HERE = (path) => fileURLToPath(new URL(path, import.meta.url))

/** Runs a program of Node; how it ended, and what it said. */
async function node(args, running) {
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] })
  running.add(child)
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => (output += text))
  const [code, signal] = await new Promise((resolve) => child.on('close', (...end) => resolve(end)))
  running.delete(child)
  return { code, signal, output }
}

test('the script moves a room, and ends once it is on disk', { skip: OURS_ONLY, timeout: 60_000 }, async (t) => {
  const running = new Set()
  t.after(() => running.forEach((child) => child.kill('SIGKILL')))
  const old = { port: await freePort() }
  old.ws = `ws://127.0.0.1:${old.port}`
  node([HERE('lib/reference.mjs'), String(old.port)], running)
  const server = await startServer()
  t.after(() => server.stop())

  const author = await connect('v3', old.ws, 'my-room')
  await synced(author)
  const text = author.doc.getText('t')
  text.insert(0, 'what the old server had')
  text.delete(5, 4)
  author.doc.getMap('m').set('key', 1)
  const witness = await connect('v3', old.ws, 'my-room')
  await until('the old server to have it', () => witness.doc.getMap('m').get('key') === 1)
  leave(author)
  leave(witness)

  const document = await readFile(HERE('../../docs/upgrading-from-y-websocket.md'), 'utf8')
  const [, script] = document.match(/```js\n(.*?)```/s)
  const moved = script
    .replaceAll('ws://localhost:1234', old.ws)
    .replaceAll('ws://localhost:8080', server.ws)
    .replaceAll("'y-websocket'", "'y-websocket-v3'")
  assert.ok(moved.includes(old.ws) && moved.includes(server.ws), script)
  // Beside the packages that it imports.
  const file = HERE(`.upgrading-${process.pid}.mjs`)
  t.after(() => rm(file, { force: true }))
  await writeFile(file, moved)
  const end = await node([file], running)
  assert.equal(end.code, 0, end.output)

  // Killed the moment the script has ended.
  await server.kill()
  const again = await startServer({ data: server.data })
  t.after(() => again.stop())
  const reader = await connect('v3', again.ws, 'my-room')
  t.after(() => leave(reader))
  await synced(reader)
  assert.equal(reader.doc.getText('t').toString(), 'what old server had')
  assert.equal(reader.doc.getMap('m').get('key'), 1)
})

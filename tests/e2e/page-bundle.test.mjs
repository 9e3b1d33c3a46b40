// The page that the binary embeds is exactly what its sources build to.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { readdir, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { gzipSync } from 'node:zlib'
import { tempDir } from './lib/server.mjs'

const SOURCE = fileURLToPath(new URL('../../sdk/page/', import.meta.url))
const COMMITTED = fileURLToPath(new URL('../../server/page/', import.meta.url))
const GZIP_BYTES_MAX = 400 * 1024

async function filesIn(folder) {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true })
  const files = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name))
  return files.map((file) => file.slice(folder.length).replace(/^\//, '')).sort()
}

test('the committed page equals a fresh build', async (t) => {
  if (!existsSync(join(SOURCE, 'node_modules'))) execFileSync('npm', ['ci'], { cwd: SOURCE, stdio: 'pipe' })
  const fresh = await tempDir('page')
  t.after(() => rm(fresh, { recursive: true, force: true }))
  execFileSync('npm', ['run', 'build', '--', '--outDir', fresh, '--emptyOutDir'], { cwd: SOURCE, stdio: 'pipe' })

  assert.deepEqual(await filesIn(fresh), await filesIn(COMMITTED))
  for (const file of await filesIn(COMMITTED)) {
    const [built, committed] = await Promise.all([readFile(join(fresh, file)), readFile(join(COMMITTED, file))])
    assert.ok(built.equals(committed), `${file} is stale: run "npm run build" in sdk/page and commit server/page`)
  }
})

test('the page is small', async () => {
  let total = 0
  for (const file of await filesIn(COMMITTED)) total += gzipSync(await readFile(join(COMMITTED, file)), { level: 9 }).byteLength
  assert.ok(total < GZIP_BYTES_MAX, `${total} bytes gzipped`)
})

// The files of a data directory, for tests that look at them or do them harm.
import { createHash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { join, relative } from 'node:path'

/** Paths of all files below `dir`, sorted. */
export async function filesOf(dir) {
  const entries = await readdir(dir, { recursive: true, withFileTypes: true })
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name))
    .sort()
}

/** A hash of every file below `dir`; but of the lock, into which each start writes its number. */
export async function fingerprint(dir) {
  const hashes = {}
  for (const path of await filesOf(dir)) {
    const name = relative(dir, path)
    if (name !== 'lock') hashes[name] = createHash('sha256').update(await readFile(path)).digest('hex')
  }
  return hashes
}

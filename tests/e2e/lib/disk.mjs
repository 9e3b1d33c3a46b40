// A small disk of its own: ext4 in a file, on a loop device.
import { execFile, spawnSync } from 'node:child_process'
import { mkdir, open, rm, statfs, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { tempDir } from './server.mjs'

const exec = promisify(execFile)
const MIB = 1024 * 1024

const mounted = new Set()
process.on('exit', () => {
  // Lazily: a server of a test that failed may still have files open there.
  for (const dir of mounted) spawnSync('umount', ['--lazy', dir])
})

/** A disk of `mib` MiB, or `{refused}` with the reason why this machine gives none. */
export async function smallDisk(mib) {
  const home = await tempDir('disk')
  const image = join(home, 'image')
  const dir = join(home, 'disk')
  try {
    await writeFile(image, '')
    await truncate(image, mib * MIB)
    await mkdir(dir)
    await exec('mkfs.ext4', ['-q', '-F', '-m', '0', image])
    await exec('mount', ['-o', 'loop', image, dir])
  } catch (error) {
    await rm(home, { recursive: true, force: true })
    return { refused: `no loop mount here: ${error.stderr?.trim() || error.message}` }
  }
  mounted.add(dir)
  const filler = join(dir, 'filler')
  return {
    dir,
    async free() {
      const { bavail, bsize } = await statfs(dir)
      return bavail * bsize
    },
    /** Takes all the space that is left but `leave` bytes. */
    async fill(leave = 0) {
      const file = await open(filler, 'a')
      try {
        for (const size of [MIB, 65_536, 4096]) {
          const chunk = Buffer.alloc(size, 0xaa)
          while ((await this.free()) >= leave + size) {
            const { bytesWritten } = await file.write(chunk)
            await file.sync()
            if (bytesWritten < size) break
          }
        }
      } catch (error) {
        if (error.code !== 'ENOSPC') throw error
      } finally {
        await file.close()
      }
    },
    /** Gives back what `fill` took. */
    async empty() {
      await rm(filler, { force: true })
    },
    async readOnly(yes) {
      await exec('mount', ['-o', `remount,${yes ? 'ro' : 'rw'}`, dir])
    },
    async release() {
      mounted.delete(dir)
      await exec('umount', [dir]).catch(() => exec('umount', ['--lazy', dir]))
      await rm(home, { recursive: true, force: true })
    },
  }
}

// Chromium through playwright-core: the system's browser, nothing downloaded.
import { existsSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { chromium } from 'playwright-core'

const EXECUTABLE = process.env.COLLABBLOCKS_CHROMIUM ?? '/usr/bin/chromium'
const SHOTS = process.env.COLLABBLOCKS_SHOTS ?? join(tmpdir(), 'collabblocks-shots')

/** A reason to skip the browser tests, or false. */
export const NO_BROWSER = existsSync(EXECUTABLE)
  ? false
  : `no browser at ${EXECUTABLE}: install chromium or set COLLABBLOCKS_CHROMIUM`

export async function launch() {
  return chromium.launch({
    executablePath: EXECUTABLE,
    args: ['--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu'],
  })
}

export async function screenshot(page, name) {
  await mkdir(SHOTS, { recursive: true })
  const path = join(SHOTS, `${name}.png`)
  await page.screenshot({ path })
  return path
}

/** Waits until the page says that all is durable. */
export async function saved(page, timeout = 15_000) {
  await page.locator('html[data-durability="saved"]').waitFor({ state: 'attached', timeout })
}

// Chromium through playwright-core: the system's browser, nothing downloaded.
import { createHash, X509Certificate } from 'node:crypto'
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

/** `trusted` are certificates (PEM) that it takes although nobody whom it knows has signed them. */
export async function launch(trusted = []) {
  const args = ['--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu']
  const keys = trusted.map((pem) => new X509Certificate(pem).publicKey.export({ type: 'spki', format: 'der' }))
  const hashes = keys.map((key) => createHash('sha256').update(key).digest('base64'))
  if (hashes.length > 0) args.push(`--ignore-certificate-errors-spki-list=${hashes.join()}`)
  return chromium.launch({ executablePath: EXECUTABLE, args })
}

/**
 * A tab of somebody with a browser of their own, so that nothing passes beside the server. Keeps the
 * page's `errors`, and the addresses of its `sockets`.
 */
export async function openTab(t, browser, origin, room, name, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 860 }, ...options })
  t.after(() => context.close())
  const page = await context.newPage()
  page.errors = []
  page.sockets = []
  page.on('pageerror', (error) => page.errors.push(error.message))
  page.on('console', (message) => {
    if (message.type() === 'error' && !message.text().includes('WebSocket connection to')) page.errors.push(message.text())
  })
  page.on('websocket', (socket) => page.sockets.push(socket.url()))
  await page.goto(`${origin}/?room=${encodeURIComponent(room)}`)
  await saved(page)
  await page.getByTestId('people').click()
  await page.getByTestId('name-input').fill(name)
  await page.getByTestId('name-save').click()
  return page
}

/** The document's text, a line a block, without the carets in it. */
export const text = (page) =>
  page.getByTestId('document').evaluate((element) => {
    const copy = element.cloneNode(true)
    for (const caret of copy.querySelectorAll('.caret')) caret.remove()
    return [...copy.children].map((block) => block.textContent).join('\n')
  })

export const people = (page, count) =>
  page.locator(`[data-testid=people][data-count="${count}"]`).waitFor({ timeout: 10_000 })

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

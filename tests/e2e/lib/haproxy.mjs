// The real haproxy in front of a server, in TCP mode.
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { join } from 'node:path'
import { freePort } from './server.mjs'
import { until } from './until.mjs'

const BIN = ['/usr/sbin/haproxy', '/usr/local/sbin/haproxy'].find((path) => existsSync(path))
/** A reason to skip a test that needs it. */
export const NO_HAPROXY = BIN === undefined ? 'haproxy is not installed' : false

/** `header` is `send-proxy` or `send-proxy-v2`; `source` is the address it is to speak for. */
export async function haproxy(folder, { to, header, source }) {
  const port = await freePort()
  const config = join(folder, `haproxy-${port}.cfg`)
  await writeFile(
    config,
    `global
  maxconn 1000
defaults
  mode tcp
  maxconn 500
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend front
  bind 127.0.0.1:${port}
${source === undefined ? '' : `  tcp-request connection set-src str(${source})\n`}  default_backend back
backend back
  server one 127.0.0.1:${to} ${header}
`,
  )
  const child = spawn(BIN, ['-db', '-f', config], { stdio: ['ignore', 'pipe', 'pipe'] })
  let log = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text) => {
      log += text
    })
  }
  process.on('exit', () => child.kill('SIGKILL'))
  const opens = () =>
    new Promise((resolve) => {
      const probe = connect(port, '127.0.0.1')
      probe.on('connect', () => resolve(true)).on('error', () => resolve(false))
      probe.on('connect', () => probe.destroy())
    })
  await until('haproxy to listen', async () => {
    if (child.exitCode !== null) throw new Error(`haproxy ended:\n${log}`)
    return opens()
  })
  return { port, ws: `ws://127.0.0.1:${port}`, wss: `wss://127.0.0.1:${port}`, stop: () => child.kill('SIGKILL') }
}

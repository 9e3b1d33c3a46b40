// Starts the server as its own process, as a user would, and ends it by its pid.
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { setTimeout as sleep } from 'node:timers/promises'

const HERE = fileURLToPath(new URL('.', import.meta.url))
const BIN = process.env.COLLABBLOCKS_BIN ?? join(HERE, '../../../target/release/collabblocks')
/** The example of a program that embeds the server with an authenticator of its own. */
export const EMBEDDER = process.env.COLLABBLOCKS_EMBEDDER ?? join(BIN, '../examples/authenticated')
const READY_MS_MAX = 20_000
const LOG_BYTES_MAX = 64 * 1024

/** True when the suites run against the reference server instead of ours. */
export const REFERENCE = process.env.COLLABBLOCKS_REFERENCE === '1'
export const RUNTIME = process.env.COLLABBLOCKS_RUNTIME ?? 'ring'
/** A reason to skip a test that only makes sense against our own server. */
export const OURS_ONLY = REFERENCE ? 'the reference server promises nothing here' : false

/** The suites' own settings are no settings of the server. */
const ENVIRONMENT = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('COLLABBLOCKS_')))

const running = new Set()
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL')
})

export async function freePort() {
  const probe = createServer()
  await new Promise((resolve, reject) => probe.on('error', reject).listen(0, '127.0.0.1', resolve))
  const { port } = probe.address()
  await new Promise((resolve) => probe.close(resolve))
  return port
}

export async function tempDir(name) {
  return mkdtemp(join(tmpdir(), `collabblocks-${name}-`))
}

function binary(bin = BIN) {
  if (!existsSync(bin)) {
    const [what, name] = bin === EMBEDDER ? [' --package collabblocks-server --example authenticated', 'EMBEDDER'] : ['', 'BIN']
    throw new Error(`no server at ${bin}: build it with "cargo build --release${what}", or set COLLABBLOCKS_${name}`)
  }
  return bin
}

function serveArgs({ port, control, data, cores, args = [] }) {
  const cli = ['serve', '--listen', `127.0.0.1:${port}`, '--data', data, '--runtime', RUNTIME]
  if (cores !== undefined) cli.push('--cores', String(cores))
  if (control !== undefined) cli.push('--control-listen', `127.0.0.1:${control}`)
  return [...cli, ...args]
}

function command(options) {
  if (REFERENCE) return [process.execPath, [join(HERE, 'reference.mjs'), String(options.port)]]
  const line = [...(options.via ?? []), binary(options.bin), ...serveArgs(options)]
  return [line[0], line.slice(1)]
}

/** Runs the binary until it ends by itself, or kills it after `timeoutMs`. `via` is a command that runs it, such as `prlimit`. */
export async function run(args, via = [], timeoutMs = READY_MS_MAX) {
  const line = [...via, binary(), ...args]
  const child = spawn(line[0], line.slice(1), { env: ENVIRONMENT, stdio: ['ignore', 'pipe', 'pipe'] })
  running.add(child)
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text) => {
      output += text
    })
  }
  const force = setTimeout(() => child.kill('SIGKILL'), timeoutMs)
  const end = await new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code, signal) => resolve({ code, signal }))
  })
  clearTimeout(force)
  running.delete(child)
  return { ...end, output }
}

/** A start that is refused: how the process ended, and all that it said. */
export async function refusedStart(options) {
  const port = options.port ?? (await freePort())
  return run(serveArgs({ ...options, port }), options.via)
}

/** A start that is killed after `ms`, how far it may have come. */
export async function interruptedStart(options, ms) {
  return run(serveArgs(options), options.via, ms)
}

/**
 * @param {{bin?: string, data?: string, port?: number, control?: number, cores?: number | string, args?: string[],
 *   via?: string[]}} [options] a `data` directory that is passed in is kept, one made here goes with `stop`; `control`
 *   is a port of its own for plain HTTP; `via` is a command that becomes the server, such as `prlimit`
 */
export async function startServer(options = {}) {
  const port = options.port ?? (await freePort())
  const data = options.data ?? (await tempDir('data'))
  const [bin, args] = command({ ...options, port, data })
  const child = spawn(bin, args, { env: ENVIRONMENT, stdio: ['ignore', 'pipe', 'pipe'] })
  running.add(child)
  let log = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text) => {
      log = (log + text).slice(-LOG_BYTES_MAX)
    })
  }
  const exited = new Promise((resolve) => {
    child.on('exit', (code, signal) => {
      running.delete(child)
      resolve({ code, signal })
    })
  })
  const server = {
    port,
    data,
    pid: child.pid,
    http: `http://127.0.0.1:${options.control ?? port}`,
    ws: `ws://127.0.0.1:${port}`,
    exited,
    get log() {
      return log
    },
    get alive() {
      return running.has(child)
    },
    signal: (signal) => child.kill(signal),
    async kill() {
      child.kill('SIGKILL')
      return exited
    },
    /** SIGTERM; answers with how the process ended. */
    async terminate() {
      child.kill('SIGTERM')
      return exited
    },
    /** Ends the process, by force if it must, and removes a data directory made here. */
    async stop() {
      child.kill('SIGTERM')
      const force = setTimeout(() => child.kill('SIGKILL'), 10_000)
      const end = await exited
      clearTimeout(force)
      if (options.data === undefined) await rm(data, { recursive: true, force: true })
      return end
    },
  }
  await ready(server)
  return server
}

async function ready(server) {
  const deadline = Date.now() + READY_MS_MAX
  while (Date.now() < deadline) {
    if (!server.alive) break
    try {
      const response = await fetch(`${server.http}/health/ready`)
      if (response.ok) return
    } catch {
      // Not listening yet.
    }
    await sleep(20)
  }
  await server.kill()
  throw new Error(`the server did not become ready:\n${server.log}`)
}

/** Fails unless the server still runs and says that it is well. */
export async function assertHealthy(server) {
  if (!server.alive) throw new Error(`the server is gone:\n${server.log}`)
  const response = await fetch(`${server.http}/health/ready`)
  if (!response.ok) throw new Error(`/health/ready says ${response.status}:\n${server.log}`)
}

/** A metric, summed over all shards. */
export async function metric(server, name) {
  const text = await (await fetch(`${server.http}/metrics`)).text()
  const values = [...text.matchAll(new RegExp(`^${name}\\{[^}]*\\} (.*)$`, 'gm'))]
  if (values.length === 0) throw new Error(`there is no metric ${name}`)
  return values.reduce((sum, [, value]) => sum + Number(value), 0)
}

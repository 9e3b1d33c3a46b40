// Client processes, from the side of the test that directs them.
import { fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'

const SCRIPT = fileURLToPath(new URL('typist.mjs', import.meta.url))

/** Starts a client process in `room`; `me` says which of two it is. */
export function spawnTypist({ version, url, room, me = 0 }) {
  const child = fork(SCRIPT, [JSON.stringify({ version, url, room, me })], { stdio: ['ignore', 'ignore', 'pipe', 'ipc'] })
  const waiting = new Map()
  let errors = ''
  let asked = 0
  child.stderr.setEncoding('utf8').on('data', (text) => {
    errors += text
  })
  child.on('message', ({ id, answer, error }) => {
    const { resolve, reject } = waiting.get(id)
    waiting.delete(id)
    if (error === undefined) resolve(answer)
    else reject(new Error(`client ${version} failed: ${error}`))
  })
  child.on('exit', (code, signal) => {
    for (const { reject } of waiting.values()) reject(new Error(`client ${version} ended (${code ?? signal}):\n${errors}`))
  })
  return {
    ask(ask, details = {}) {
      return new Promise((resolve, reject) => {
        const id = asked++
        waiting.set(id, { resolve, reject })
        child.send({ id, ask, ...details })
      })
    },
    kill: () => child.kill('SIGKILL'),
  }
}

/** All was delivered. */
export const told = (a, b) => a.snapshot === b.snapshot && !a.pending && !b.pending
const equal = (a, b) => told(a, b) && a.content === b.content

/** Asks until all documents are `same`; returns what the first says. */
export async function converge(typists, timeoutMs, same = equal) {
  const deadline = Date.now() + timeoutMs
  for (;;) {
    const reports = await Promise.all(typists.map((typist) => typist.ask('report')))
    if (reports.every((report) => same(report, reports[0]))) return reports[0]
    if (Date.now() > deadline) throw new Error(`the documents differ after ${timeoutMs} ms: ${JSON.stringify(reports)}`)
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

// A network of its own: links to clients in network namespaces of theirs, which can be cut, narrowed
// and made lossy, with the kernel's own TCP at both ends.
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'

const FAR = fileURLToPath(new URL('far.mjs', import.meta.url))
const HOLE = ['root', 'tbf', 'rate', '8kbit', 'burst', '10b', 'limit', '10b']
const LINK = 'ip link add near type veth peer name far && tc qdisc add dev near root tbf rate 1mbit burst 4kb limit 9kb'

/** True in a process that {@link runInside} started. */
export const INSIDE = process.env.COLLABBLOCKS_OWN_NETWORK === '1'

/** A reason why there can be no network of one's own here, or false. */
export function noNetwork() {
  const tried = spawnSync('unshare', ['--net', 'sh', '-c', LINK], { encoding: 'utf8' })
  if (tried.status === 0) return false
  return `no network namespace with veth and tbf here: ${(tried.error?.message ?? tried.stderr).trim()}`
}

/** Runs a file of tests in a namespace without any link; answers with its exit code and what it said. */
export async function runInside(file) {
  const env = { ...process.env, COLLABBLOCKS_OWN_NETWORK: '1' }
  // It is no part of the run around it.
  delete env.NODE_TEST_CONTEXT
  const args = ['--net', process.execPath, '--test-reporter=spec', file]
  const child = spawn('unshare', args, { env, stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text) => {
      output += text
    })
  }
  const code = await new Promise((resolve) => child.on('close', resolve))
  return { code, output }
}

const ip = (...args) => execFileSync('ip', args)
const tc = (...args) => execFileSync('tc', args, { encoding: 'utf8' })

/** Lets this namespace talk to itself. */
export function loopbackUp() {
  ip('link', 'set', 'lo', 'up')
}

let links = 0

/**
 * A process in a namespace of its own, behind a link to this one. `ask` has it do what far.mjs can;
 * `address` is this end of the link.
 */
export async function farAway() {
  const number = links++
  const [near, far, net] = [`near${number}`, `far${number}`, `10.77.${number}`]
  const stdio = ['ignore', 'inherit', 'inherit', 'ipc']
  const child = spawn('unshare', ['--net', process.execPath, FAR], { stdio })
  const asked = new Map()
  let here
  const isThere = new Promise((resolve) => {
    here = resolve
  })
  child.on('message', ({ id, result, error }) => {
    if (id === undefined) return here()
    const { resolve, reject } = asked.get(id)
    asked.delete(id)
    if (error) reject(new Error(`far away: ${error}`))
    else resolve(result)
  })
  child.on('exit', () => {
    for (const { reject } of asked.values()) reject(new Error('the far process is gone'))
  })
  await isThere
  ip('link', 'add', near, 'type', 'veth', 'peer', 'name', far, 'netns', String(child.pid))
  const there = (...args) => execFileSync('nsenter', [`--net=/proc/${child.pid}/ns/net`, ...args])
  ip('addr', 'add', `${net}.1/30`, 'dev', near)
  ip('link', 'set', near, 'up')
  there('ip', 'addr', 'add', `${net}.2/30`, 'dev', far)
  there('ip', 'link', 'set', far, 'up')
  let last = 0
  return {
    address: `${net}.1`,
    ask: (what, ...args) =>
      new Promise((resolve, reject) => {
        const id = last++
        asked.set(id, { resolve, reject })
        child.send({ id, what, args })
      }),
    /** The far end has no link any more. */
    cut: () => there('ip', 'link', 'set', far, 'down'),
    mend: () => there('ip', 'link', 'set', far, 'up'),
    /** Each packet, of either end, is lost, as it is larger than what may ever pass at once. */
    swallow() {
      tc('qdisc', 'add', 'dev', near, ...HOLE)
      there('tc', 'qdisc', 'add', 'dev', far, ...HOLE)
    },
    letThrough() {
      tc('qdisc', 'del', 'dev', near, 'root')
      there('tc', 'qdisc', 'del', 'dev', far, 'root')
    },
    /** Small packets, a slow link both ways, and what does not fit into its short queues is lost. */
    spoil(mtu, rate) {
      const tbf = ['root', 'tbf', 'rate', rate, 'burst', '3kb', 'limit', '6kb']
      ip('link', 'set', near, 'mtu', String(mtu))
      tc('qdisc', 'add', 'dev', near, ...tbf)
      there('ip', 'link', 'set', far, 'mtu', String(mtu))
      there('tc', 'qdisc', 'add', 'dev', far, ...tbf)
    },
    /** Packets to the far end that the spoilt link has lost. */
    lost: () => Number(/dropped (\d+)/.exec(tc('-s', 'qdisc', 'show', 'dev', near))[1]),
    end() {
      child.kill('SIGKILL')
    },
  }
}

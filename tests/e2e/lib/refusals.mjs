// What the server answers to each thing it refuses, as docs/close-codes.md has it: an HTTP status
// before the upgrade, a WebSocket close code after it.
import { connect } from 'node:net'
import { RawClient } from './raw.mjs'

const MALFORMED = [4400]

export const CAUSES = {
  garbage: { what: 'garbage before any HTTP', http: 400 },
  hugeHeader: { what: 'a header of 1 MB', http: 431 },
  noKey: { what: 'an upgrade without a key', http: 400 },
  oldVersion: { what: 'an upgrade to an old WebSocket version', http: 426 },
  reservedRoom: { what: 'a reserved room name', http: 404 },
  emptyRoom: { what: 'an empty room name', close: 4400 },
  longRoom: { what: 'a room name of 5,000 bytes', close: 4400 },
  textFrame: { what: 'a text frame', close: 1003 },
  unmasked: { what: 'an unmasked frame', close: 1002 },
  reservedBits: { what: 'a frame with a reserved bit', close: 1002 },
  reservedOpcode: { what: 'a frame of an unknown kind', close: 1002 },
  strayContinuation: { what: 'a continuation of nothing', close: 1002 },
  longControl: { what: 'a ping of 126 bytes', close: 1002 },
  hugeFrame: { what: 'the header of a frame of 100 MB', close: 1009 },
  hugeMessage: { what: 'large fragments without end', close: 1009 },
  manyFragments: { what: 'small fragments without end', close: 1008 },
  truncated: { what: 'a message cut short', close: 4400 },
  vectorBomb: { what: 'a state vector that claims 50 million entries', close: 4400 },
  updateMalformed: { what: 'a malformed update', close: 4400 },
  awarenessMalformed: { what: 'a malformed awareness update', close: 4400 },
  awarenessHuge: { what: 'a presence state of 2 MB', close: 4413 },
}

const upgrade = (path, headers) =>
  [`GET ${path} HTTP/1.1`, 'Host: localhost', ...headers, '', ''].join('\r\n')
const UPGRADE = ['Upgrade: websocket', 'Connection: Upgrade', 'Sec-WebSocket-Version: 13', 'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==']

const REQUESTS = {
  garbage: Buffer.from(Array.from({ length: 4096 }, (_, i) => (i * 167 + 13) & 0xff)),
  hugeHeader: upgrade('/room', [...UPGRADE, `X-Long: ${'x'.repeat(1024 * 1024)}`]),
  noKey: upgrade('/room', UPGRADE.slice(0, 3)),
  oldVersion: upgrade('/room', [...UPGRADE.slice(0, 2), 'Sec-WebSocket-Version: 8', UPGRADE[3]]),
  reservedRoom: upgrade('/api/room', UPGRADE),
}

/** A plain TCP connection that collects what comes back. */
export function dial(port) {
  const socket = connect({ port, host: '127.0.0.1' })
  let received = Buffer.alloc(0)
  const ended = new Promise((resolve) => {
    socket.on('data', (chunk) => {
      received = Buffer.concat([received, chunk])
    })
    socket.on('error', () => {})
    socket.on('close', () => resolve(received))
  })
  return {
    socket,
    ended,
    get received() {
      return received
    },
  }
}

/** Sends the request of `cause` and fails unless it is refused as the table says. */
export async function expectRefused(server, cause, timeoutMs = 15_000) {
  const { what, http } = CAUSES[cause]
  const { socket, ended } = dial(server.port)
  const timer = setTimeout(() => socket.destroy(), timeoutMs)
  socket.write(REQUESTS[cause])
  const answer = (await ended).toString('latin1')
  clearTimeout(timer)
  const status = Number(/^HTTP\/1\.[01] (\d{3})/.exec(answer)?.[1])
  if (status !== http) throw new Error(`${what}: expected HTTP ${http}, got ${JSON.stringify(answer.slice(0, 200))}`)
}

/** Upgrades a plain socket so that frames can be written to it byte by byte. */
export async function dialRoom(server, room) {
  const connection = dial(server.port)
  connection.socket.write(upgrade(`/${room}`, UPGRADE))
  while (!connection.received.includes('\r\n\r\n')) {
    if (connection.socket.destroyed) throw new Error('the upgrade was refused')
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
  return connection
}

/** The close code in the last frame of what a plain socket received, or undefined. */
export function closeCode(received) {
  let at = received.indexOf('\r\n\r\n') + 4
  while (at + 2 <= received.length) {
    const opcode = received[at] & 0x0f
    let length = received[at + 1] & 0x7f
    let start = at + 2
    if (length === 126) {
      length = received.readUInt16BE(start)
      start += 2
    } else if (length === 127) {
      length = Number(received.readBigUInt64BE(start))
      start += 8
    }
    if (opcode === 8) return length >= 2 ? received.readUInt16BE(start) : 1005
    at = start + length
  }
  return undefined
}

export function assertClose(cause, code) {
  const { what, close } = CAUSES[cause]
  if (code !== close) throw new Error(`${what}: expected close ${close}, got ${code}`)
}

/** Opens `room`, sends `bytes` if any, and fails unless the connection is closed as the table says. */
export async function expectClosed(server, room, cause, bytes) {
  const client = new RawClient(server.ws, room)
  await client.opened
  if (bytes) client.send(bytes)
  const { code } = await client.waitClosed()
  assertClose(cause, code)
}

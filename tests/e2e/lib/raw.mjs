// The y-websocket protocol spoken by hand, for what no provider would do or tell.
import * as decoding from 'lib0/decoding'
import * as encoding from 'lib0/encoding'
import WebSocket from 'ws'
import * as Y from 'yjs'
import { until } from './until.mjs'

const SYNC = 0
const AWARENESS = 1
const QUERY_AWARENESS = 3
const STEP_1 = 0
const STEP_2 = 1
const UPDATE = 2

const isEmpty = (update) => update.byteLength === 2 && update[0] === 0 && update[1] === 0
export const hex = (bytes) => Buffer.from(bytes).toString('hex')

function syncFrame(kind, body) {
  const encoder = encoding.createEncoder()
  encoding.writeVarUint(encoder, SYNC)
  encoding.writeVarUint(encoder, kind)
  encoding.writeVarUint8Array(encoder, body)
  return encoding.toUint8Array(encoder)
}

export const frames = {
  step1: (vector) => syncFrame(STEP_1, vector),
  step2: (update) => syncFrame(STEP_2, update),
  update: (update) => syncFrame(UPDATE, update),
  queryAwareness: () => Uint8Array.of(QUERY_AWARENESS),
  /** @param {[client: number, clock: number, state: unknown][]} entries */
  awareness(entries) {
    const states = encoding.createEncoder()
    encoding.writeVarUint(states, entries.length)
    for (const [client, clock, state] of entries) {
      encoding.writeVarUint(states, client)
      encoding.writeVarUint(states, clock)
      encoding.writeVarString(states, JSON.stringify(state))
    }
    const encoder = encoding.createEncoder()
    encoding.writeVarUint(encoder, AWARENESS)
    encoding.writeVarUint8Array(encoder, encoding.toUint8Array(states))
    return encoding.toUint8Array(encoder)
  },
}

function decode(data) {
  const decoder = decoding.createDecoder(data)
  const type = decoding.readVarUint(decoder)
  if (type === SYNC) {
    const kind = ['step1', 'step2', 'update'][decoding.readVarUint(decoder)]
    return { kind, body: decoding.readVarUint8Array(decoder), rest: decoding.hasContent(decoder) }
  }
  if (type === AWARENESS) {
    const states = decoding.createDecoder(decoding.readVarUint8Array(decoder))
    const entries = Array.from({ length: decoding.readVarUint(states) }, () => [
      decoding.readVarUint(states),
      decoding.readVarUint(states),
      JSON.parse(decoding.readVarString(states)),
    ])
    return { kind: 'awareness', entries, rest: decoding.hasContent(decoder) }
  }
  return { kind: `type ${type}`, rest: false }
}

/** A socket in a room that keeps all it receives, and answers nothing by itself. */
export class RawClient {
  received = []
  closed = null
  /** Called with each decoded message. */
  onMessage = () => {}

  constructor(url, room, options = {}) {
    this.socket = new WebSocket(`${url}/${room}`, options)
    this.socket.binaryType = 'nodebuffer'
    this.opened = new Promise((resolve, reject) => {
      this.socket.on('open', resolve)
      this.socket.on('error', reject)
    })
    this.opened.catch(() => {})
    this.socket.on('close', (code, reason) => {
      this.closed = { code, reason: reason.toString() }
    })
    this.socket.on('message', (data, binary) => {
      const message = binary ? decode(data) : { kind: 'text', text: data.toString() }
      this.received.push(message)
      this.onMessage(message)
    })
  }

  send(frame) {
    this.socket.send(frame)
  }

  messages(kind) {
    return this.received.filter((message) => message.kind === kind)
  }

  updates() {
    return this.messages('update').map(({ body }) => hex(body))
  }

  /** What awareness says of `client` now: `[clock, state]`, or undefined when it was never named. */
  presence(client) {
    for (const { entries } of this.messages('awareness').reverse()) {
      const entry = entries.findLast(([id]) => id === client)
      if (entry) return entry.slice(1)
    }
    return undefined
  }

  /** Sends step 1 and waits for the answer, after which all that came before it has been handled. */
  async barrier() {
    const before = this.messages('step2').length
    this.send(frames.step1(Uint8Array.of(0)))
    await until('an answer to step 1', () => this.messages('step2').length > before || this.closed)
  }

  async waitClosed(timeoutMs = 10_000) {
    return until('the server to close the connection', () => this.closed, timeoutMs)
  }

  /** Gone without a word, as when a cable is cut. */
  destroy() {
    this.socket.terminate()
  }

  async close() {
    if (this.closed) return
    this.socket.close()
    await this.waitClosed()
  }
}

/** A raw client with a document that it keeps in sync, and a ledger of what came back to it. */
export class SyncClient extends RawClient {
  /** Own content in the order sent, and how much of its front was echoed. */
  sent = []
  echoed = 0
  /** Answered the server's step 1, and got its step 2. */
  synced = false
  caughtUp = false
  /** Every update seen in an update frame, own echoes included. */
  onUpdate = () => {}

  constructor(url, room, doc = new Y.Doc()) {
    super(url, room)
    this.doc = doc
    this.onMessage = (message) => this.#onMessage(message)
    this.broadcast = (update, origin) => {
      if (origin !== this && this.synced) this.sendContent(UPDATE, update)
    }
    doc.on('update', this.broadcast)
    this.opened.then(
      () => this.send(frames.step1(Y.encodeStateVector(doc))),
      () => {},
    )
    this.socket.on('close', () => doc.off('update', this.broadcast))
  }

  sendContent(kind, update) {
    if (isEmpty(update)) return
    this.sent.push(update)
    this.send(syncFrame(kind, update))
  }

  get durable() {
    return this.echoed === this.sent.length
  }

  #onMessage({ kind, body }) {
    // Kept only as long as it is of use: these clients run long.
    this.received.length = 0
    if (kind === 'step1') {
      this.synced = true
      const update = Y.encodeStateAsUpdate(this.doc, body)
      if (isEmpty(update)) this.send(frames.step2(update))
      else this.sendContent(STEP_2, update)
    } else if (kind === 'step2') {
      Y.applyUpdate(this.doc, body, this)
      this.caughtUp = true
    } else if (kind === 'update') {
      const next = this.sent[this.echoed]
      const echo = next !== undefined && Buffer.compare(next, body) === 0
      if (echo) this.echoed++
      else Y.applyUpdate(this.doc, body, this)
      // The body is a view of the frame's buffer.
      this.onUpdate(body.slice(), echo)
    }
  }
}

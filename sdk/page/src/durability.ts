/**
 * Knows whether everything typed here is durable on the server.
 *
 * The server sends each update and each non-empty step 2 of a session back to it, verbatim and in
 * arrival order, and only after fsync. So an update is durable once its echo has arrived, and the
 * page is "saved" once no echo is outstanding. State vectors would not do: deletions do not move
 * them.
 */
import * as decoding from 'lib0/decoding'

const MESSAGE_SYNC = 0
const SYNC_STEP_2 = 1
const SYNC_UPDATE = 2
const EMPTY_UPDATE_BYTES = 2
const LATENCIES_MAX = 64

export type Durability = 'connecting' | 'offline' | 'saving' | 'saved' | 'closed'

export interface Stats {
  sent: number
  durable: number
  lastMs: number | null
  medianMs: number | null
}

interface Content {
  step2: boolean
  update: Uint8Array
}

interface Pending extends Content {
  sentAt: number
}

/** The document content that a frame carries, if it carries any. */
export function contentOf(frame: Uint8Array): Content | null {
  const decoder = decoding.createDecoder(frame)
  if (decoding.readVarUint(decoder) !== MESSAGE_SYNC) return null
  const kind = decoding.readVarUint(decoder)
  if (kind !== SYNC_STEP_2 && kind !== SYNC_UPDATE) return null
  return { step2: kind === SYNC_STEP_2, update: decoding.readVarUint8Array(decoder) }
}

function same(a: Uint8Array, b: Uint8Array): boolean {
  if (a.byteLength !== b.byteLength) return false
  for (let i = 0; i < a.byteLength; i++) if (a[i] !== b[i]) return false
  return true
}

export class DurabilityTracker {
  #socket: unknown = null
  #open = false
  #failed = false
  #closed = false
  /** The browser has no network, and nothing was heard of the server since it said so. */
  #unreachable = false
  /** Our step 2 has gone out on this connection: from then on the pending list is complete. */
  #answered = false
  #pending: Pending[] = []
  #unsent = false
  #sent = 0
  #durable = 0
  #latencies: number[] = []
  readonly #now: () => number
  readonly #changed: () => void

  constructor(changed: () => void, now: () => number = () => performance.now()) {
    this.#changed = changed
    this.#now = now
  }

  get state(): Durability {
    if (this.#closed) return 'closed'
    if (this.#unreachable) return 'offline'
    if (!this.#open) return this.#failed ? 'offline' : 'connecting'
    if (this.#pending.length > 0) return 'saving'
    return this.#answered ? 'saved' : 'connecting'
  }

  /** Whether leaving now could lose something. */
  get unsaved(): boolean {
    return this.#pending.length > 0 || this.#unsent
  }

  get stats(): Stats {
    const sorted = [...this.#latencies].sort((a, b) => a - b)
    return {
      sent: this.#sent,
      durable: this.#durable,
      lastMs: this.#latencies.at(-1) ?? null,
      medianMs: sorted[sorted.length >> 1] ?? null,
    }
  }

  onConnecting(socket: unknown): void {
    this.#socket = socket
    this.#closed = false
    this.#reset()
    this.#changed()
  }

  onOpen(socket: unknown): void {
    if (socket !== this.#socket) return
    this.#open = true
    this.#failed = false
    this.#unreachable = false
    this.#changed()
  }

  onClose(socket: unknown): void {
    if (socket !== this.#socket) return
    this.#failed = true
    this.#reset()
    this.#changed()
  }

  /** The server said that coming back is pointless. */
  onClosedForGood(): void {
    this.#closed = true
    this.#reset()
    this.#changed()
  }

  /**
   * The browser lost its network, or has one again. A server on the same machine is reached without
   * one, so that whatever is heard of it counts for more.
   */
  onNetwork(there: boolean): void {
    this.#unreachable = !there
    this.#changed()
  }

  /** A local change that no open connection carries yet: the next step 2 will. */
  onLocalUpdate(): void {
    if (this.#open) return
    this.#unsent = true
    this.#changed()
  }

  onSend(socket: unknown, frame: Uint8Array): void {
    if (socket !== this.#socket) return
    const content = contentOf(frame)
    if (content === null) return
    if (content.step2) {
      this.#answered = true
      this.#unsent = false
    }
    if (content.update.byteLength > EMPTY_UPDATE_BYTES) {
      this.#sent++
      this.#pending.push({ ...content, sentAt: this.#now() })
    }
    this.#changed()
  }

  onReceive(socket: unknown, frame: Uint8Array): void {
    if (socket !== this.#socket) return
    if (this.#unreachable) {
      this.#unreachable = false
      this.#changed()
    }
    if (this.#pending.length === 0) return
    const content = contentOf(frame)
    if (content === null || content.step2) return
    const index = this.#pending.findIndex((pending) => same(pending.update, content.update))
    const echoed = this.#pending[index]
    if (echoed === undefined) return
    // Echoes keep the order of arrival. One that is overtaken was refused for a gap, after which
    // the server asked for all that it lacks: the step 2 that answers this holds it.
    const settled = this.#pending.splice(echoed.step2 ? 0 : index, echoed.step2 ? index + 1 : 1)
    this.#durable += settled.length
    this.#latencies.push(this.#now() - echoed.sentAt)
    if (this.#latencies.length > LATENCIES_MAX) this.#latencies.shift()
    this.#changed()
  }

  /** Echoes do not outlive their connection. What was pending goes again in the next step 2. */
  #reset(): void {
    this.#unsent ||= this.#pending.length > 0
    this.#open = false
    this.#answered = false
    this.#sent -= this.#pending.length
    this.#pending = []
  }
}

/** A WebSocket class that reports to `tracker` what passes through it. */
export function trackedSocket(tracker: DurabilityTracker): typeof WebSocket {
  return class extends WebSocket {
    constructor(url: string | URL, protocols?: string | string[]) {
      super(url, protocols)
      tracker.onConnecting(this)
      this.addEventListener('open', () => tracker.onOpen(this))
      this.addEventListener('close', () => tracker.onClose(this))
      this.addEventListener('message', (event) => {
        if (event.data instanceof ArrayBuffer) tracker.onReceive(this, new Uint8Array(event.data))
      })
    }

    override send(data: Uint8Array<ArrayBuffer>): void {
      super.send(data)
      tracker.onSend(this, data)
    }
  }
}

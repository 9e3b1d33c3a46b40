/** One visit to one room: its document, its connection, its editor. */
import type { Editor } from '@tiptap/core'
import { WebsocketProvider } from 'y-websocket'
import * as Y from 'yjs'
import { DurabilityTracker, trackedSocket } from './durability'
import { createEditor } from './editor'
import { colorOf, distinct, type Name, type User } from './people'
import { roomPath } from './rooms'

/** So long after the first sync one has heard of everybody who was in the room before. */
const HERE_MS = 1000

export interface SessionEvents {
  onDurability: (tracker: DurabilityTracker) => void
  onPeople: (session: Session) => void
  /** Another drawn name was taken, as somebody has the one before. */
  onName: (name: string) => void
  onClosed: (code: number, reason: string) => void
}

export class Session {
  readonly doc = new Y.Doc()
  readonly tracker: DurabilityTracker
  readonly provider: WebsocketProvider
  readonly editor: Editor
  #me: User
  #drawn: boolean
  #arrival: ReturnType<typeof setTimeout> | undefined
  /** The old socket's close arrives after the next room is open, and is no news there. */
  #left = false

  constructor(
    readonly room: string,
    name: Name,
    element: HTMLElement,
    private readonly events: SessionEvents,
  ) {
    this.tracker = new DurabilityTracker(() => {
      if (!this.#left) events.onDurability(this.tracker)
    })
    this.provider = new WebsocketProvider(location.origin.replace(/^http/, 'ws'), roomPath(room), this.doc, {
      connect: false,
      // Tabs of one browser would also reach each other past the server, and what they pass on
      // there is durable nowhere.
      disableBc: true,
      WebSocketPolyfill: trackedSocket(this.tracker),
    })
    this.doc.on('update', (_update: Uint8Array, origin: unknown) => {
      if (origin !== this.provider) this.tracker.onLocalUpdate()
    })
    this.provider.on('closed', ({ code, reason }) => {
      this.tracker.onClosedForGood()
      events.onClosed(code, reason)
    })
    const { awareness } = this.provider
    this.#me = { name: name.text, color: colorOf(awareness.clientID), here: false }
    this.#drawn = name.drawn
    awareness.on('change', () => {
      this.#announce()
      events.onPeople(this)
    })
    this.provider.on('status', ({ status }) => {
      if (status !== 'disconnected') return
      // All but us are gone with the connection. Who has not stirred since comes back with the state
      // of before, which counts only for who remembers none of it.
      for (const id of awareness.meta.keys()) if (id !== awareness.clientID) awareness.meta.delete(id)
    })
    this.provider.once('sync', () => {
      this.#arrival = setTimeout(() => this.#announce({ here: true }), HERE_MS)
    })
    this.editor = createEditor(element, this.doc, this.provider, this.#me)
    this.provider.connect()
  }

  rename(name: string): void {
    this.#drawn = false
    this.#announce({ name })
  }

  /** A network that is there again may be another one, on which the old connection is dead for long. */
  onNetwork(there: boolean): void {
    if (!there || !this.provider.wsconnected || this.tracker.state !== 'offline') return this.tracker.onNetwork(there)
    this.provider.disconnect()
    this.provider.connect()
  }

  /** Says who we are, if it is not what was said last. */
  #announce(change: Partial<User> = {}): void {
    const { awareness } = this.provider
    const before = this.#me.name
    this.#me = distinct(awareness, { ...this.#me, ...change }, this.#drawn)
    if (this.#drawn && this.#me.name !== before) this.events.onName(this.#me.name)
    const said = awareness.getLocalState()?.['user'] as User | undefined
    const { name, color, here } = this.#me
    if (said && (said.name !== name || said.color !== color || said.here !== here)) {
      awareness.setLocalStateField('user', this.#me)
    }
  }

  destroy(): void {
    this.#left = true
    clearTimeout(this.#arrival)
    this.editor.destroy()
    this.provider.destroy()
    this.doc.destroy()
  }
}

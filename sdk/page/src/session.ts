/** One visit to one room: its document, its connection, its editor. */
import type { Editor } from '@tiptap/core'
import { WebsocketProvider } from 'y-websocket'
import * as Y from 'yjs'
import { DurabilityTracker, trackedSocket } from './durability'
import { createEditor } from './editor'
import { pickColor } from './people'
import { roomPath } from './rooms'

export interface SessionEvents {
  onDurability: (tracker: DurabilityTracker) => void
  onPeople: (session: Session) => void
  onClosed: (code: number, reason: string) => void
}

export class Session {
  readonly doc = new Y.Doc()
  readonly tracker: DurabilityTracker
  readonly provider: WebsocketProvider
  readonly editor: Editor
  #name: string
  #color: string
  /** The old socket's close arrives after the next room is open, and is no news there. */
  #left = false

  constructor(
    readonly room: string,
    name: string,
    element: HTMLElement,
    events: SessionEvents,
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
    this.#name = name
    this.#color = pickColor(this.provider.awareness)
    this.provider.awareness.on('change', () => {
      this.#announce()
      events.onPeople(this)
    })
    this.editor = createEditor(element, this.doc, this.provider, { name: this.#name, color: this.#color })
    this.provider.connect()
  }

  rename(name: string): void {
    this.#name = name
    this.#announce()
  }

  /** Says who we are, if it is not what was said last; a taken colour is swapped for a free one. */
  #announce(): void {
    const { awareness } = this.provider
    this.#color = pickColor(awareness)
    const said = awareness.getLocalState()?.['user']
    if (said && (said.name !== this.#name || said.color !== this.#color)) {
      awareness.setLocalStateField('user', { name: this.#name, color: this.#color })
    }
  }

  destroy(): void {
    this.#left = true
    this.editor.destroy()
    this.provider.destroy()
    this.doc.destroy()
  }
}

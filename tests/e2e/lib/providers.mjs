// The published y-websocket clients, unmodified, by their major version.
import WebSocket from 'ws'

// Each provider listens for the end of the process.
process.setMaxListeners(0)

const LOADERS = {
  v1: async () => [await import('yjs'), (await import('y-websocket-v1')).WebsocketProvider],
  v2: async () => [await import('yjs'), (await import('y-websocket-v2')).WebsocketProvider],
  v3: async () => [await import('yjs'), (await import('y-websocket-v3')).WebsocketProvider],
  v4: async () => [await import('@y/y'), (await import('@y/websocket')).WebsocketProvider],
}

export const VERSIONS = Object.keys(LOADERS)

/** Yjs and the provider class that belong together. */
export async function loadClient(version) {
  const [Y, WebsocketProvider] = await LOADERS[version]()
  return { Y, WebsocketProvider }
}

/** A provider in `room`, its document, and what a test waits for. */
export async function connect(version, url, room, options = {}) {
  const { Y, WebsocketProvider } = await loadClient(version)
  const doc = options.doc ?? new Y.Doc()
  const provider = new WebsocketProvider(url, room, doc, {
    WebSocketPolyfill: WebSocket,
    disableBc: true,
    ...options.provider,
  })
  return { Y, doc, provider, awareness: provider.awareness }
}

export async function synced({ provider }, timeoutMs = 15_000) {
  if (provider.synced) return
  await new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`no sync after ${timeoutMs} ms`)), timeoutMs)
    provider.on('sync', (state) => {
      if (!state) return
      clearTimeout(timer)
      resolve()
    })
  })
}

/** Leaves the room and stops every timer of the client. */
export function leave({ provider, awareness, doc }) {
  provider.destroy()
  awareness.destroy()
  doc.destroy()
}

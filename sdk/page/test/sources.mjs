// The page's sources, as modules of Node.
import { fileURLToPath } from 'node:url'
import { createServer } from 'vite'

export async function openSources() {
  const vite = await createServer({
    root: fileURLToPath(new URL('..', import.meta.url)),
    configFile: false,
    logLevel: 'error',
    server: { middlewareMode: true, ws: false, watch: null },
    optimizeDeps: { noDiscovery: true },
  })
  return { load: (name) => vite.ssrLoadModule(`/src/${name}.ts`), close: () => vite.close() }
}

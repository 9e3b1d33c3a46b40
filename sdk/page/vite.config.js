import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { defineConfig } from 'vite'

const require = createRequire(import.meta.url)

/** The fonts' licence travels with the fonts. */
const fontLicenses = () => ({
  name: 'font-licenses',
  generateBundle() {
    const source = ['newsreader', 'schibsted-grotesk']
      .map((font) => readFileSync(require.resolve(`@fontsource-variable/${font}/LICENSE`), 'utf8').trimEnd())
      .join('\n\n----\n\n')
    this.emitFile({ type: 'asset', fileName: 'assets/fonts-license.txt', source: `${source}\n` })
  },
})

// `npm run dev` serves the sources and passes sockets, health and metrics on to a running server.
const server = process.env.COLLABBLOCKS_SERVER ?? 'http://127.0.0.1:8080'

export default defineConfig({
  plugins: [fontLicenses()],
  build: {
    outDir: '../../server/page',
    emptyOutDir: true,
    target: 'es2023',
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: true,
    chunkSizeWarningLimit: 900,
    license: { fileName: 'assets/licenses.txt' },
    // The server embeds these files by name, so names carry no hash; it answers with an ETag.
    rolldownOptions: {
      output: {
        codeSplitting: false,
        entryFileNames: 'assets/page.js',
        assetFileNames: 'assets/[name][extname]',
      },
    },
  },
  resolve: { dedupe: ['yjs', 'y-protocols', 'lib0'] },
  server: {
    proxy: {
      '/health': server,
      '/metrics': server,
      '/': { target: server, ws: true, bypass: (request, response) => (response ? request.url : undefined) },
    },
  },
})

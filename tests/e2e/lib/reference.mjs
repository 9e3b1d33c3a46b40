// The reference y-websocket server behind the page, for checking the suites themselves:
// COLLABBLOCKS_REFERENCE=1 runs them against it. It keeps rooms in memory and echoes before anything
// is durable, so the suites about durability skip it.
import { createServer } from 'node:http'
import { readFile } from 'node:fs/promises'
import { extname, join, normalize } from 'node:path'
import { fileURLToPath } from 'node:url'
import { setupWSConnection } from '@y/websocket-server/utils'
import { WebSocketServer } from 'ws'

const PAGE = fileURLToPath(new URL('../../../server/page/', import.meta.url))
const TYPES = { '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml', '.woff2': 'font/woff2', '.txt': 'text/plain' }

const server = createServer(async (request, response) => {
  const path = normalize(new URL(request.url, 'http://localhost').pathname)
  if (path === '/health/ready') return response.end('ok')
  try {
    const file = path === '/' ? 'index.html' : path
    const body = await readFile(join(PAGE, file))
    response.writeHead(200, { 'content-type': TYPES[extname(file)] ?? 'application/octet-stream' }).end(body)
  } catch {
    response.writeHead(404).end()
  }
})
const sockets = new WebSocketServer({ server })
sockets.on('connection', setupWSConnection)
process.on('SIGTERM', () => {
  for (const socket of sockets.clients) socket.close(1012)
  server.close(() => process.exit(0))
})
server.listen(Number(process.argv[2]), '127.0.0.1')

// Hocuspocus with its SQLite extension, as its documentation sets it up; quiet.
import { Server } from '@hocuspocus/server'
import { SQLite } from '@hocuspocus/extension-sqlite'

const server = new Server({
  address: '127.0.0.1',
  port: Number(process.env.PORT),
  quiet: true,
  extensions: [new SQLite({ database: `${process.env.DATA}/hocuspocus.sqlite` })]
})
await server.listen()

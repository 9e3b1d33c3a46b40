// A client in a network namespace of its own, which does what its parent asks. See network.mjs.
import { connect } from './providers.mjs'

let client

const asked = {
  join(url, room, name) {
    return connect('v3', url, room).then((made) => {
      client = made
      client.awareness.setLocalStateField('user', { name })
    })
  },
  insert(text) {
    client.doc.getText('t').insert(0, text)
  },
  /** Ends the connection at this end with a RST, which is sent but once. */
  reset() {
    client.provider.ws._socket.resetAndDestroy()
  },
  look() {
    const names = [...client.awareness.getStates().values()].map((state) => state.user?.name)
    const { wsconnected: connected, synced } = client.provider
    return { text: client.doc.getText('t').toString(), names, connected, synced }
  },
}

process.on('message', async ({ id, what, args }) => {
  try {
    process.send({ id, result: await asked[what](...args) })
  } catch (error) {
    process.send({ id, error: String(error) })
  }
})
process.on('disconnect', () => process.exit())
process.send({})

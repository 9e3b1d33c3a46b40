import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { openSources } from './sources.mjs'

const STEP_1 = 0
const STEP_2 = 1
const UPDATE = 2

let sources
let DurabilityTracker

before(async () => {
  sources = await openSources()
  ;({ DurabilityTracker } = await sources.load('durability'))
})
after(() => sources.close())

const sync = (kind, ...update) => Uint8Array.of(0, kind, update.length, ...update)
const awareness = Uint8Array.of(1, 1, 0)

function opened() {
  const socket = {}
  let clock = 0
  const tracker = new DurabilityTracker(
    () => {},
    () => clock++,
  )
  tracker.onConnecting(socket)
  tracker.onOpen(socket)
  return { tracker, socket }
}

function ready() {
  const session = opened()
  session.tracker.onSend(session.socket, sync(STEP_1, 0))
  session.tracker.onSend(session.socket, sync(STEP_2, 0, 0))
  assert.equal(session.tracker.state, 'saved')
  return session
}

test('connecting until our step 2 is out, even with nothing to save', () => {
  const { tracker, socket } = opened()
  assert.equal(tracker.state, 'connecting')
  tracker.onSend(socket, awareness)
  assert.equal(tracker.state, 'connecting')
  tracker.onSend(socket, sync(STEP_2, 0, 0))
  assert.equal(tracker.state, 'saved')
})

test('saved only when every update was echoed', () => {
  const { tracker, socket } = ready()
  tracker.onSend(socket, sync(UPDATE, 1, 1, 1))
  tracker.onSend(socket, sync(UPDATE, 2, 2, 2))
  assert.equal(tracker.state, 'saving')
  tracker.onReceive(socket, sync(UPDATE, 1, 1, 1))
  assert.equal(tracker.state, 'saving')
  tracker.onReceive(socket, sync(UPDATE, 2, 2, 2))
  assert.equal(tracker.state, 'saved')
  assert.deepEqual([tracker.stats.sent, tracker.stats.durable], [2, 2])
})

test('other people’s updates, a step 2 and awareness confirm nothing', () => {
  const { tracker, socket } = ready()
  tracker.onSend(socket, sync(UPDATE, 1, 1, 1))
  tracker.onReceive(socket, sync(UPDATE, 9, 9, 9))
  tracker.onReceive(socket, sync(STEP_2, 1, 1, 1))
  tracker.onReceive(socket, awareness)
  assert.equal(tracker.state, 'saving')
})

test('the same bytes sent twice need two echoes', () => {
  const { tracker, socket } = ready()
  tracker.onSend(socket, sync(UPDATE, 1, 1, 1))
  tracker.onSend(socket, sync(UPDATE, 1, 1, 1))
  tracker.onReceive(socket, sync(UPDATE, 1, 1, 1))
  assert.equal(tracker.state, 'saving')
  tracker.onReceive(socket, sync(UPDATE, 1, 1, 1))
  assert.equal(tracker.state, 'saved')
})

test('the echo of a step 2 settles the updates before it that were refused for a gap', () => {
  const { tracker, socket } = ready()
  tracker.onSend(socket, sync(UPDATE, 1, 1, 1))
  tracker.onSend(socket, sync(UPDATE, 2, 2, 2))
  tracker.onSend(socket, sync(STEP_2, 3, 3, 3))
  tracker.onSend(socket, sync(UPDATE, 4, 4, 4))
  tracker.onReceive(socket, sync(UPDATE, 3, 3, 3))
  assert.equal(tracker.state, 'saving')
  tracker.onReceive(socket, sync(UPDATE, 4, 4, 4))
  assert.equal(tracker.state, 'saved')
})

test('an update echoed past another does not settle that one', () => {
  const { tracker, socket } = ready()
  tracker.onSend(socket, sync(UPDATE, 1, 1, 1))
  tracker.onSend(socket, sync(UPDATE, 2, 2, 2))
  tracker.onReceive(socket, sync(UPDATE, 2, 2, 2))
  assert.equal(tracker.state, 'saving')
})

test('a lost connection leaves what was pending to the next step 2', () => {
  const { tracker, socket } = ready()
  tracker.onSend(socket, sync(UPDATE, 1, 1, 1))
  tracker.onClose(socket)
  assert.equal(tracker.state, 'offline')
  assert.equal(tracker.unsaved, true)

  const next = {}
  tracker.onConnecting(next)
  assert.equal(tracker.state, 'offline')
  tracker.onOpen(next)
  tracker.onReceive(next, sync(UPDATE, 1, 1, 1))
  assert.equal(tracker.state, 'connecting')
  tracker.onSend(next, sync(STEP_2, 1, 1, 1))
  assert.equal(tracker.state, 'saving')
  tracker.onReceive(next, sync(UPDATE, 1, 1, 1))
  assert.equal(tracker.state, 'saved')
  assert.equal(tracker.unsaved, false)
})

test('what is typed offline is unsaved', () => {
  const { tracker, socket } = ready()
  tracker.onClose(socket)
  assert.equal(tracker.unsaved, false)
  tracker.onLocalUpdate()
  assert.equal(tracker.unsaved, true)
})

test('a socket left behind says nothing', () => {
  const { tracker, socket } = ready()
  const next = {}
  tracker.onConnecting(next)
  tracker.onOpen(next)
  tracker.onSend(next, sync(STEP_2, 1, 1, 1))
  tracker.onReceive(socket, sync(UPDATE, 1, 1, 1))
  tracker.onClose(socket)
  assert.equal(tracker.state, 'saving')
})

test('closed for good stays closed until the next attempt', () => {
  const { tracker, socket } = ready()
  tracker.onClose(socket)
  tracker.onClosedForGood()
  assert.equal(tracker.state, 'closed')
  tracker.onConnecting({})
  assert.equal(tracker.state, 'offline')
})

test('without a network it is offline at once, and what is typed is unsaved', () => {
  const { tracker, socket } = ready()
  tracker.onNetwork(false)
  assert.equal(tracker.state, 'offline')
  assert.equal(tracker.unsaved, false)
  tracker.onSend(socket, sync(UPDATE, 1, 1, 1))
  assert.equal(tracker.state, 'offline')
  assert.equal(tracker.unsaved, true)
  tracker.onNetwork(true)
  assert.equal(tracker.state, 'saving')
})

test('a server that is heard of without a network is there', () => {
  const { tracker, socket } = ready()
  tracker.onNetwork(false)
  tracker.onReceive({}, awareness)
  assert.equal(tracker.state, 'offline')
  tracker.onReceive(socket, awareness)
  assert.equal(tracker.state, 'saved')

  tracker.onNetwork(false)
  tracker.onClose(socket)
  const next = {}
  tracker.onConnecting(next)
  tracker.onOpen(next)
  assert.equal(tracker.state, 'connecting')
})

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { openSources } from './sources.mjs'

let sources
let distinct
let colorOf
let COLORS
let NAMES

before(async () => {
  sources = await openSources()
  ;({ distinct, colorOf, COLORS, NAMES } = await sources.load('people'))
})
after(() => sources.close())

/** What client `id` knows of the others. */
const known = (id, others) => ({ clientID: id, getStates: () => new Map([[id, {}], ...others.map(([other, user]) => [other, { user }])]) })
const user = (name, color, here = true) => ({ name, color, here })

test('who comes gives way to who is here, whatever the ids', () => {
  for (const other of [1, 99]) {
    const mine = user('Ada', COLORS[0], false)
    const now = distinct(known(50, [[other, user('Ada', COLORS[0])]]), mine, true)
    assert.notEqual(now.name, 'Ada')
    assert.ok(NAMES.includes(now.name))
    assert.notEqual(now.color, COLORS[0])
    assert.ok(COLORS.includes(now.color))
    const theirs = user('Ada', COLORS[0])
    assert.deepEqual(distinct(known(other, [[50, mine]]), theirs, true), theirs)
  }
})

test('of two who come at once one gives way', () => {
  for (const here of [false, true]) {
    const mine = user('Ada', COLORS[0], here)
    assert.deepEqual(distinct(known(1, [[2, mine]]), mine, true), mine)
    const other = distinct(known(2, [[1, mine]]), mine, true)
    assert.notEqual(other.name, mine.name)
    assert.notEqual(other.color, mine.color)
  }
})

test('what nobody else has is kept when others leave', () => {
  const mine = user('Radia', COLORS[3])
  assert.notEqual(colorOf(7), mine.color)
  assert.deepEqual(distinct(known(7, [[1, user('Ada', colorOf(7))]]), mine, true), mine)
  assert.deepEqual(distinct(known(7, []), mine, true), mine)
})

test('a chosen name is kept although another has it', () => {
  const mine = user('Ada', COLORS[0], false)
  const now = distinct(known(5, [[1, user('Ada', COLORS[0])]]), mine, false)
  assert.equal(now.name, 'Ada')
  assert.notEqual(now.color, COLORS[0])
})

test('the last free name and colour are found, and without any one’s own stays', () => {
  const others = (lists, count) => Array.from({ length: count }, (_, i) => [i + 1, user(lists.names[i] ?? 'x', lists.colors[i] ?? 'x')])
  for (const id of [100, 101, 107, 115]) {
    const mine = user(NAMES[0], COLORS[0], false)
    const one = distinct(known(id, others({ names: NAMES.slice(0, -1), colors: COLORS.slice(0, -1) }, NAMES.length - 1)), mine, true)
    assert.deepEqual([one.name, one.color], [NAMES.at(-1), COLORS.at(-1)])
    assert.deepEqual(distinct(known(id, others({ names: NAMES, colors: COLORS }, NAMES.length)), mine, true), mine)
  }
})

test('all who arrive in a room, in any order of ids, end with names and colours of their own', () => {
  const here = new Map()
  for (const id of [40, 10, 90, 20, 70, 30, 60, 50, 80, 0]) {
    const before = [...here]
    here.set(id, { ...distinct(known(id, before), user('Ada', colorOf(id), false), true), here: true })
    for (const [other, theirs] of before) {
      const rest = [...here].filter(([third]) => third !== other)
      assert.deepEqual(distinct(known(other, rest), theirs, true), theirs)
    }
  }
  const all = [...here.values()]
  assert.equal(new Set(all.map(({ name }) => name)).size, all.length)
  assert.equal(new Set(all.map(({ color }) => color)).size, all.length)
})

test('others are judged by what they say, be it anything', () => {
  const mine = user('Ada', COLORS[0])
  const odd = [[1, undefined], [2, {}], [3, { name: 5, color: null }]]
  assert.deepEqual(distinct(known(9, odd), mine, true), mine)
  assert.notEqual(distinct(known(9, [[1, { name: 'Ada' }]]), mine, true).name, 'Ada')
})

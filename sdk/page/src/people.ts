/** Who is here: names, colours, and the list of those present. */
import type { Awareness } from 'y-protocols/awareness'

const NAME_KEY = 'collabblocks.name'
const NAME_MAX = 40

/** White text on each of these has a contrast of at least 4.5:1. */
export const COLORS = ['#12704c', '#b0372a', '#3d5bc9', '#8a5a00', '#8b3fa0', '#00728a', '#b02e6b', '#5a6b1f', '#6a4fc4', '#9c4a17']
export const NAMES = ['Ada', 'Alonzo', 'Barbara', 'Dennis', 'Donald', 'Edsger', 'Frances', 'Grace', 'Hedy', 'John', 'Katherine', 'Leslie', 'Margaret', 'Niklaus', 'Radia', 'Tony']

export interface User {
  name: string
  color: string
  /** False for as long as one may not have heard yet who else is here. */
  here: boolean
}

export interface Person {
  id: number
  me: boolean
  name: string
  color: string
}

/** One's own name; a drawn one was not chosen by anybody yet. */
export interface Name {
  text: string
  drawn: boolean
}

function stored(storage: () => Storage): string | null {
  try {
    return storage().getItem(NAME_KEY)
  } catch {
    return null
  }
}

function store(storage: () => Storage, name: string): void {
  try {
    storage().setItem(NAME_KEY, name)
  } catch {
    // Without storage the name lasts as long as the page.
  }
}

/** A tab keeps its name; a chosen name is also that of later tabs. */
export function ownName(): Name {
  const known = stored(() => sessionStorage) ?? stored(() => localStorage)
  if (known) return { text: known, drawn: false }
  const text = NAMES[crypto.getRandomValues(new Uint8Array(1))[0]! % NAMES.length]!
  keepDrawn(text)
  return { text, drawn: true }
}

export function keepDrawn(name: string): void {
  store(() => sessionStorage, name)
}

export function keepChosen(name: string): void {
  store(() => sessionStorage, name)
  store(() => localStorage, name)
}

export function cleanName(name: unknown): string {
  return typeof name === 'string' ? name.trim().slice(0, NAME_MAX) : ''
}

export function colorOf(id: number): string {
  return COLORS[id % COLORS.length]!
}

/**
 * `mine`, but with a colour, and a name if it was drawn, that nobody else here has, as far as there
 * are free ones. Who was here first keeps theirs, and of those who came at once the lower id.
 */
export function distinct(awareness: Awareness, mine: User, drawn: boolean): User {
  const present: Partial<User>[] = []
  const before: Partial<User>[] = []
  for (const [id, state] of awareness.getStates()) {
    const user = state['user'] as Partial<User> | undefined
    if (id === awareness.clientID || !user) continue
    present.push(user)
    const here = user.here !== false
    if (here === mine.here ? id < awareness.clientID : here) before.push(user)
  }
  const own = (key: 'name' | 'color', all: string[]): string => {
    if (!before.some((user) => user[key] === mine[key])) return mine[key]
    const taken = new Set(present.map((user) => user[key]))
    const start = awareness.clientID % all.length
    return [...all.slice(start), ...all.slice(0, start)].find((value) => !taken.has(value)) ?? mine[key]
  }
  return { ...mine, name: drawn ? own('name', NAMES) : mine.name, color: own('color', COLORS) }
}

export function peopleIn(awareness: Awareness): Person[] {
  const people: Person[] = []
  for (const [id, state] of awareness.getStates()) {
    const user = state['user'] as Partial<User> | undefined
    people.push({
      id,
      me: id === awareness.clientID,
      name: cleanName(user?.name) || 'Someone',
      color: /^#[0-9a-f]{6}$/i.test(user?.color ?? '') ? user!.color! : '#5b6964',
    })
  }
  return people.sort((a, b) => Number(b.me) - Number(a.me) || a.id - b.id)
}

export function initials(name: string): string {
  const words = name.split(/\s+/).filter(Boolean)
  return words.slice(0, 2).map((word) => [...word][0]!.toUpperCase()).join('')
}

/** Who is here: names, colours, and the list of those present. */
import type { Awareness } from 'y-protocols/awareness'

const NAME_KEY = 'collabblocks.name'
const NAME_MAX = 40

/** White text on each of these has a contrast of at least 4.5:1. */
export const COLORS = ['#12704c', '#b0372a', '#3d5bc9', '#8a5a00', '#8b3fa0', '#00728a', '#b02e6b', '#5a6b1f', '#6a4fc4', '#9c4a17']
const NAMES = ['Ada', 'Alonzo', 'Barbara', 'Claude', 'Donald', 'Edsger', 'Frances', 'Grace', 'Hedy', 'John', 'Katherine', 'Leslie', 'Margaret', 'Niklaus', 'Radia', 'Tony']

export interface User {
  name: string
  color: string
}

export interface Person extends User {
  id: number
  me: boolean
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
export function ownName(): string {
  const known = stored(() => sessionStorage) ?? stored(() => localStorage)
  if (known) return known
  const name = NAMES[crypto.getRandomValues(new Uint8Array(1))[0]! % NAMES.length]!
  store(() => sessionStorage, name)
  return name
}

export function keepName(name: string): void {
  store(() => sessionStorage, name)
  store(() => localStorage, name)
}

export function cleanName(name: unknown): string {
  return typeof name === 'string' ? name.trim().slice(0, NAME_MAX) : ''
}

/** The colour of a client: its own choice, or one that nobody before it has taken. */
export function pickColor(awareness: Awareness): string {
  const taken = new Set<unknown>()
  for (const [id, state] of awareness.getStates()) if (id < awareness.clientID) taken.add(state['user']?.color)
  const start = awareness.clientID % COLORS.length
  for (let i = 0; i < COLORS.length; i++) {
    const color = COLORS[(start + i) % COLORS.length]!
    if (!taken.has(color)) return color
  }
  return COLORS[start]!
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

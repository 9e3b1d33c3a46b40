/** Room names, their place in the page's address and in the socket's, and the rooms visited. */

const RECENT_KEY = 'collabblocks.recent-rooms'
const RECENT_MAX = 8
const FALLBACK_ROOM = 'welcome'
/** The server's cap, on the escaped name. */
const NAME_BYTES_MAX = 512
/** First path segments that the server keeps for itself. */
const RESERVED = ['api', 'collab', 'd', 'doc', 'health', 'hocuspocus', 'inspect', 'metrics', 'parties', 'v2', 'v7', 'v8']

const FIRST = ['amber', 'brisk', 'calm', 'clear', 'early', 'even', 'fair', 'keen', 'level', 'north', 'quiet', 'solid', 'steady', 'still', 'swift', 'tidal']
const SECOND = ['anvil', 'arch', 'basalt', 'beacon', 'brick', 'cairn', 'delta', 'forge', 'granite', 'harbor', 'keel', 'ledger', 'quarry', 'slate', 'span', 'terrace']

/** Why a name cannot be a room, or null. */
export function roomProblem(room: string): string | null {
  if (room === '') return 'Type a name.'
  const first = room.split('/', 1)[0]!
  if (RESERVED.includes(first)) return `Names that begin with “${first}” belong to the server. Choose another.`
  if (room.split('/').some((part) => part === '' || part === '.' || part === '..')) return 'Put a name between slashes.'
  if (/[\\\u0000-\u001f\u007f]/.test(room)) return 'Backslashes and control characters do not work in a name.'
  if (new URL(roomPath(room), 'http://host/').pathname.length > NAME_BYTES_MAX) return 'This name is too long.'
  return null
}

/**
 * The room as the socket's path. An address parser escapes the rest just as it does for any other
 * client, so that the same name leads to the same room; only what would end the path is escaped.
 */
export function roomPath(room: string): string {
  return room.replaceAll('?', '%3F').replaceAll('#', '%23')
}

/** The room that the page's address names; it may be one that cannot be. */
export function roomFromAddress(search: string): string {
  return new URLSearchParams(search).get('room')?.trim() ?? FALLBACK_ROOM
}

export function addressOf(room: string): string {
  return `/?room=${encodeURIComponent(room).replaceAll('%2F', '/')}`
}

export function freshRoom(): string {
  const [a, b, c] = crypto.getRandomValues(new Uint16Array(3))
  return `${FIRST[a! % FIRST.length]}-${SECOND[b! % SECOND.length]}-${(c! % 9000) + 1000}`
}

export function recentRooms(): string[] {
  try {
    const stored: unknown = JSON.parse(localStorage.getItem(RECENT_KEY) ?? '[]')
    if (!Array.isArray(stored)) return []
    return stored.filter((room) => typeof room === 'string' && roomProblem(room) === null).slice(0, RECENT_MAX)
  } catch {
    return []
  }
}

export function rememberRoom(room: string): void {
  const rooms = [room, ...recentRooms().filter((other) => other !== room)].slice(0, RECENT_MAX)
  try {
    localStorage.setItem(RECENT_KEY, JSON.stringify(rooms))
  } catch {
    // A browser that stores nothing merely has no recent rooms.
  }
}

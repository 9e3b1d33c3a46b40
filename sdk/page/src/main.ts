import { cleanName, initials, keepChosen, keepDrawn, ownName, peopleIn, type Person } from './people'
import { addressOf, freshRoom, recentRooms, rememberRoom, roomFromAddress, roomProblem } from './rooms'
import { Session } from './session'
import { StatusView } from './status'
import { createToolbar } from './toolbar'

const AVATARS_MAX = 4

function byId<T extends HTMLElement = HTMLElement>(id: string): T {
  return document.getElementById(id) as T
}

const roomDialog = byId<HTMLDialogElement>('room-dialog')
const roomInput = byId<HTMLInputElement>('room-input')
const peopleDialog = byId<HTMLDialogElement>('people-dialog')
const nameInput = byId<HTMLInputElement>('name-input')
const attachToolbar = createToolbar(byId('toolbar'))

let name = ownName()
let session: Session | null = null

function avatar(person: Person): HTMLElement {
  const element = document.createElement('span')
  element.className = 'avatar'
  element.style.setProperty('--user', person.color)
  element.textContent = initials(person.name)
  return element
}

function showPeople({ provider }: Session): void {
  const people = peopleIn(provider.awareness)
  const shown = people.slice(0, AVATARS_MAX).map(avatar)
  if (people.length > AVATARS_MAX) {
    const more = document.createElement('span')
    more.className = 'avatar more'
    more.textContent = `+${people.length - AVATARS_MAX}`
    shown.push(more)
  }
  const names = people.map((person) => (person.me ? `${person.name} (you)` : person.name))
  const button = byId('people')
  button.replaceChildren(...shown)
  button.title = names.join(', ')
  button.setAttribute('aria-label', `People here: ${names.join(', ')}`)
  button.dataset['count'] = String(people.length)

  byId('people-list').replaceChildren(
    ...people.map((person, index) => {
      const item = document.createElement('li')
      item.dataset['testid'] = 'person'
      item.append(avatar(person), names[index]!)
      return item
    }),
  )
}

function showNotice(text: string, action: string, act: () => void): void {
  const notice = byId('notice')
  const paragraph = document.createElement('p')
  paragraph.textContent = text
  const button = document.createElement('button')
  button.type = 'button'
  button.textContent = action
  button.addEventListener('click', act)
  notice.replaceChildren(paragraph, button)
  notice.hidden = false
}

function showClosed(code: number, reason: string): void {
  showNotice(`The server closed this room: ${reason || `code ${code}`}.`, 'Try again', () => {
    byId('notice').hidden = true
    session?.provider.connect()
  })
}

/** What is of a room is not there without one. */
function showRoom(room: string | null): void {
  byId('room-name').textContent = room ?? 'none'
  document.title = room === null ? 'CollabBlocks' : `${room} · CollabBlocks`
  for (const id of ['people', 'status', 'toolbar', 'figures', 'room-copy']) byId(id).hidden = room === null
}

function openRoom(room: string): void {
  session?.destroy()
  byId('notice').hidden = true
  showRoom(room)
  rememberRoom(room)
  const status = new StatusView()
  session = new Session(room, name, byId('editor'), {
    onDurability: (tracker) => status.update(tracker),
    onPeople: showPeople,
    onName: (text) => {
      name = { text, drawn: true }
      keepDrawn(text)
    },
    onClosed: showClosed,
  })
  showPeople(session)
  attachToolbar(session.editor)
}

/** Another room than the address names is never opened in its place. */
function openAddress(): void {
  const room = roomFromAddress(location.search)
  const problem = roomProblem(room)
  if (problem === null) return openRoom(room)
  session?.destroy()
  session = null
  showRoom(null)
  showNotice(`The address names no room that can be opened. ${problem}`, 'Open a room', () => byId('room-button').click())
}

function goTo(room: string): void {
  if (room !== session?.room) {
    if (session?.tracker.unsaved && !window.confirm('Changes in this room are not saved yet. Leave it anyway?')) return
    history.pushState(null, '', addressOf(room))
    openRoom(room)
  }
  roomDialog.close()
}

function showRecent(): void {
  const rooms = recentRooms().filter((room) => room !== session?.room)
  byId('recent').hidden = rooms.length === 0
  byId('recent-list').replaceChildren(
    ...rooms.map((room) => {
      const link = document.createElement('a')
      link.href = addressOf(room)
      link.textContent = room
      link.dataset['testid'] = 'recent-room'
      link.addEventListener('click', (event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey) return
        event.preventDefault()
        goTo(room)
      })
      const item = document.createElement('li')
      item.append(link)
      return item
    }),
  )
}

byId('room-button').addEventListener('click', () => {
  roomInput.value = session?.room ?? ''
  byId('room-error').textContent = ''
  byId('room-copy').textContent = 'Copy link'
  showRecent()
  roomDialog.showModal()
  roomInput.select()
})

byId('room-form').addEventListener('submit', (event) => {
  event.preventDefault()
  const room = roomInput.value.trim().replace(/^\/+/, '')
  const problem = roomProblem(room)
  byId('room-error').textContent = problem ?? ''
  roomInput.setAttribute('aria-invalid', String(problem !== null))
  if (problem === null) goTo(room)
})

byId('room-new').addEventListener('click', () => goTo(freshRoom()))

byId('room-copy').addEventListener('click', async () => {
  const link = new URL(addressOf(session!.room), location.href).href
  try {
    await navigator.clipboard.writeText(link)
    byId('room-copy').textContent = 'Link copied'
  } catch {
    window.prompt('Link to this room', link)
  }
})

byId('people').addEventListener('click', () => {
  nameInput.value = name.text
  peopleDialog.showModal()
  nameInput.select()
})

byId('name-form').addEventListener('submit', () => {
  const chosen = cleanName(nameInput.value)
  if (chosen === '') return
  name = { text: chosen, drawn: false }
  keepChosen(chosen)
  session?.rename(chosen)
})

for (const dialog of [roomDialog, peopleDialog]) {
  dialog.querySelector('[data-close]')!.addEventListener('click', () => dialog.close())
  dialog.addEventListener('click', (event) => {
    if (event.target === dialog) dialog.close()
  })
}

byId('page').addEventListener('click', (event) => {
  if (event.target === event.currentTarget) session?.editor.commands.focus('end')
})

window.addEventListener('popstate', openAddress)

window.addEventListener('offline', () => session?.onNetwork(false))
window.addEventListener('online', () => session?.onNetwork(true))

window.addEventListener('beforeunload', (event) => {
  if (session?.tracker.unsaved) event.preventDefault()
})

openAddress()

/** Shows the connection and durability state, and the commit figures. */
import type { Durability, DurabilityTracker } from './durability'

const TEXT: Record<Durability, string> = {
  connecting: 'Connecting',
  offline: 'Offline',
  saving: 'Saving…',
  saved: 'Saved',
  closed: 'Closed',
}
/**
 * "Saved" appears only after things have been quiet this long, so that it does not flicker with
 * every key. The other way there is no delay: the page never claims more than is true.
 */
const SETTLE_MS = 250
const SLOW_MS = 8000

const byId = (id: string): HTMLElement => document.getElementById(id)!

function milliseconds(value: number | null): string {
  if (value === null) return '–'
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`
}

export class StatusView {
  #shown: Durability | null = null
  #settle: ReturnType<typeof setTimeout> | undefined
  #slow: ReturnType<typeof setTimeout> | undefined

  update(tracker: DurabilityTracker): void {
    const { state, stats } = tracker
    document.documentElement.dataset['durability'] = state
    document.documentElement.dataset['unsaved'] = String(tracker.unsaved)
    byId('count-sent').textContent = String(stats.sent)
    byId('count-durable').textContent = String(stats.durable)
    byId('commit-last').textContent = milliseconds(stats.lastMs)
    byId('commit-median').textContent = milliseconds(stats.medianMs)

    clearTimeout(this.#settle)
    if (state === 'saved' && this.#shown === 'saving') {
      this.#settle = setTimeout(() => this.#show('saved', tracker), SETTLE_MS)
    } else {
      this.#show(state, tracker)
    }
  }

  #show(state: Durability, tracker: DurabilityTracker): void {
    const text = byId('status-text')
    text.textContent = state === 'offline' && tracker.unsaved ? 'Offline, not saved' : TEXT[state]
    if (state === this.#shown) return
    const before = this.#shown
    this.#shown = state
    byId('status').dataset['state'] = state
    document.documentElement.dataset['shown'] = state
    clearTimeout(this.#slow)
    if (state === 'saving') this.#slow = setTimeout(() => (text.textContent = 'Saving, slowly…'), SLOW_MS)
    if (state === 'offline') this.#announce('Offline. Keep writing: changes stay in this tab and are sent when the server is back.')
    if (before === 'offline' && state !== 'closed') this.#announce('Connected again.')
  }

  #announce(text: string): void {
    byId('announce').textContent = text
  }
}

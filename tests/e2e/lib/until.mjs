import { setTimeout as sleep } from 'node:timers/promises'

/** Waits until `check` gives something truthy and returns it; fails with `what` after `timeoutMs`. */
export async function until(what, check, timeoutMs = 10_000) {
  const deadline = Date.now() + timeoutMs
  for (;;) {
    const value = await check()
    if (value) return value
    if (Date.now() > deadline) throw new Error(`waited ${timeoutMs} ms in vain: ${what}`)
    await sleep(10)
  }
}

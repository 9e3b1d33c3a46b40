// Seeded randomness: the same seed, the same run.
import { randomInt } from 'node:crypto'

/**
 * The seed of this run: 1 unless COLLABBLOCKS_SEED gives another, or `fresh` for one at random.
 * Print it in every test that uses it.
 */
export function runSeed() {
  const given = process.env.COLLABBLOCKS_SEED ?? '1'
  return given === 'fresh' ? randomInt(2 ** 32) : Number(given) >>> 0
}

/** A small generator (mulberry32) with the draws that tests need. */
export function random(seed) {
  let state = seed >>> 0
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
  const below = (bound) => Math.floor(next() * bound)
  return { next, below, between: (low, high) => low + below(high - low + 1), pick: (list) => list[below(list.length)] }
}

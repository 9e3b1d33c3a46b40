// Editing histories: made here from a seed, or read from a trace file.
//
// A trace file is JSON, gzipped or not. Sequential: `{startContent, endContent, txns: [{patches:
// [[position, deleted, inserted], …]}]}`. Concurrent: `{kind: "concurrent", numAgents, txns:
// [{agent, patches}]}`. Positions count code points.
import { readFile } from 'node:fs/promises'
import { gunzipSync } from 'node:zlib'
import { random } from './random.mjs'

const WORDS = 'the log a room of update and core edit ring batch shard vector sync state block is segment durable'.split(' ')
const ASTRAL = ['😀', '🚀', '𝒳', '👩‍💻', '🇪🇺', 'é', 'ß', '日本']

/**
 * Somebody at a keyboard: words, sometimes a jump elsewhere, sometimes a deletion.
 * @returns {{kind: 'sequential' | 'concurrent', agents: number, endContent?: string,
 *   txns: {agent: number, patches: [number, number, string][]}[]}}
 */
export function generate({ seed, txns, kind }) {
  const draw = random(seed)
  const agents = kind === 'concurrent' ? 2 : 1
  let length = 0
  let content = ''
  const cursors = Array(agents).fill(0)
  const history = []
  for (let i = 0; i < txns; i++) {
    const agent = draw.below(agents)
    if (draw.next() < 0.05) cursors[agent] = draw.below(length + 1)
    const at = Math.min(cursors[agent], length)
    const deleted = draw.next() < 0.2 ? Math.min(draw.between(1, 12), length - at) : 0
    const exotic = kind === 'concurrent' && draw.next() < 0.05
    const inserted = deleted > 0 && draw.next() < 0.5 ? '' : `${exotic ? draw.pick(ASTRAL) : draw.pick(WORDS)}${draw.next() < 0.1 ? '\n' : ' '}`
    history.push({ agent, patches: [[at, deleted, inserted]] })
    length += inserted.length - deleted
    cursors[agent] = at + inserted.length
    if (kind === 'sequential') content = content.slice(0, at) + inserted + content.slice(at + deleted)
  }
  return { kind, agents, txns: history, endContent: kind === 'sequential' ? content : undefined }
}

export async function readTrace(path) {
  const bytes = await readFile(path)
  const trace = JSON.parse(bytes[0] === 0x1f && bytes[1] === 0x8b ? gunzipSync(bytes) : bytes)
  const concurrent = trace.kind === 'concurrent'
  if (!concurrent && trace.startContent) trace.txns.unshift({ patches: [[0, 0, trace.startContent]] })
  return {
    kind: concurrent ? 'concurrent' : 'sequential',
    agents: concurrent ? trace.numAgents : 1,
    endContent: concurrent ? undefined : trace.endContent,
    txns: trace.txns.map(({ agent = 0, patches }) => ({ agent, patches })),
  }
}

// The bytes of the log and of the small files, as docs/formats has them, for tests that do them harm.
import { open, readFile, writeFile } from 'node:fs/promises'
import { crc32 } from 'node:zlib'
import { filesOf } from './files.mjs'

const BLOCK_BYTES = 4096
const BATCH_MAGIC = Buffer.from('CBB\n')
const BATCH_HEADER_BYTES = 128

/** The log's segments below `data`, oldest first. */
export async function logSegments(data) {
  return (await filesOf(data)).filter((path) => path.endsWith('.wal'))
}

export async function snapshotSegments(data) {
  return (await filesOf(data)).filter((path) => path.endsWith('.snap'))
}

/** The batches of a segment that was never recycled: offset, records' bytes, offset after it. */
export async function batches(path) {
  const bytes = await readFile(path)
  const found = []
  let offset = BLOCK_BYTES
  while (offset + BLOCK_BYTES <= bytes.length && bytes.subarray(offset, offset + 4).equals(BATCH_MAGIC)) {
    const payload = bytes.readUInt32LE(offset + 56)
    const end = offset + Math.ceil((BATCH_HEADER_BYTES + payload) / BLOCK_BYTES) * BLOCK_BYTES
    found.push({ offset, payload, end })
    offset = end
  }
  return found
}

export async function overwrite(path, offset, bytes) {
  const file = await open(path, 'r+')
  try {
    await file.write(bytes, 0, bytes.length, offset)
  } finally {
    await file.close()
  }
}

export async function flipBit(path, offset) {
  const file = await open(path, 'r+')
  try {
    const byte = Buffer.alloc(1)
    await file.read(byte, 0, 1, offset)
    byte[0] ^= 0x10
    await file.write(byte, 0, 1, offset)
  } finally {
    await file.close()
  }
}

/** Gives a store file, a manifest slot or a snapshot segment the next version, whole in all else. */
export async function fromTheFuture(path) {
  const bytes = await readFile(path)
  const payload = bytes.readUInt32LE(12)
  bytes.writeUInt32LE(bytes.readUInt32LE(8) + 1, 8)
  bytes.writeUInt32LE(crc32(bytes.subarray(32, 32 + payload), crc32(bytes.subarray(0, 28))), 28)
  await writeFile(path, bytes)
}

/** The same for a segment of the log. */
export async function segmentFromTheFuture(path) {
  const bytes = await readFile(path)
  bytes.writeUInt16LE(bytes.readUInt16LE(12) + 1, 12)
  bytes.writeUInt32LE(crc32(bytes.subarray(12, BLOCK_BYTES)), 8)
  await writeFile(path, bytes)
}

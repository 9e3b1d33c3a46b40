// Updates that must not do harm, as hex. `answer`: `close` (malformed), `ask` (something is missing:
// the server asks with a step 1), `refuse` (either), `take` (it is fine and comes back as an echo).

const varUint = (value) => {
  const bytes = []
  let rest = BigInt(value)
  do {
    bytes.push(Number(rest & 0x7fn) | (rest > 0x7fn ? 0x80 : 0))
    rest >>= 7n
  } while (rest > 0n)
  return Buffer.from(bytes).toString('hex')
}

/** One item of content kind Any in the root "t" of client 7, nesting arrays `depth` deep. */
const nestedAny = (depth) => `010107000801017401${'7501'.repeat(depth)}7e00`

export const HAZARDS = [
  { what: 'a string in a root, for comparison', answer: 'take', hex: '0101070004010174016100' },
  { what: 'an emoji in a root that could be an array', answer: 'take', hex: '010107000401016104f09f988000' },
  { what: 'the later half of a sequence', answer: 'ask', hex: '01010200440100016200' },
  { what: 'a forged start at clock 2^31 + 1', answer: 'refuse', hex: '010307818080800804010174017800' },
  { what: 'a sound item after one whose parent is no type', answer: 'refuse', hex: '0103070004010174016104000700016204010174016300' },
  { what: 'clocks that wrap', answer: 'refuse', hex: '010307ffffffff0f04010174017804010174017904010174017a00' },
  { what: 'a count of 16 million clients', answer: 'close', hex: '80808008' },
  { what: 'a count of 2^32 - 1 structs', answer: 'close', hex: '01ffffffff0f0700' },
  { what: 'a count of deletions past the end', answer: 'close', hex: '000107ffffffff0f' },
  { what: 'arrays nested 8,000 deep', answer: 'close', hex: nestedAny(8000) },
  { what: '25,000 empty client sections', answer: 'close', hex: varUint(25_000) + Array.from({ length: 25_000 }, (_, client) => `00${varUint(client + 1)}00`).join('') + '00' },
  { what: 'a client id of 2^53', answer: 'close', hex: `0101${varUint(2n ** 53n)}0004010174016100` },
  { what: 'a clock of 2^32', answer: 'refuse', hex: `010107${varUint(2n ** 32n)}04010174016100` },
  { what: 'one client in two sections', answer: 'close', hex: '02010700040101740161010701840700016200' },
  { what: 'a string that is not UTF-8', answer: 'close', hex: '010107000401017402c32800' },
  { what: 'a lone surrogate', answer: 'close', hex: '010107000401017403eda08000' },
  { what: 'an unknown kind of content', answer: 'close', hex: '010107000f01017400' },
  { what: 'an update cut short', answer: 'close', hex: '0101070004010174' },
  { what: 'bytes after the end', answer: 'close', hex: '0101070004010174016100ff' },
  { what: 'nothing at all', answer: 'close', hex: '' },
  { what: 'a deletion of what nobody wrote', answer: 'ask', hex: '000109010005' },
]

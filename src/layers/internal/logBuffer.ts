/**
 * Bytes on their way to the disk, in blocks of one size that are used again: small chunks become few writes, nobody else's
 * memory is held, and an idle log holds none.
 */

/** What one write call of a busy log is made of. */
const blockBytes = 64 * 1024

/** Free blocks that are kept for the next busy log; the rest is the collector's. */
const maxFreeBlocks = 32

export interface BlockPool {
  readonly take: () => Buffer
  readonly give: (block: Buffer) => void
}

export const makeBlockPool = (): BlockPool => {
  const free: Array<Buffer> = []
  return {
    take: () => free.pop() ?? Buffer.allocUnsafeSlow(blockBytes),
    give: (block) => {
      if (free.length < maxFreeBlocks) free.push(block)
    }
  }
}

export interface LogBuffer {
  /** Cursor of the first byte that is held. */
  readonly start: () => number
  readonly end: () => number
  readonly size: () => number
  readonly push: (bytes: Uint8Array, from: number, to: number) => void
  /** The oldest bytes, at most `limit`, as they lie; valid until they are dropped. */
  readonly slices: (limit: number) => Array<Buffer>
  readonly drop: (count: number) => void
  /** A copy of at most `limit` bytes from a cursor on, which must be held. */
  readonly copy: (cursor: number, limit: number) => Uint8Array
}

export const makeLogBuffer = (at: number, pool: BlockPool): LogBuffer => {
  const blocks: Array<Buffer> = []
  let start = at
  let end = at
  /** Of `start` in the first block. */
  let head = 0

  /** Parts of the blocks that hold `count` bytes from `skip` bytes after the start on. */
  const parts = (skip: number, count: number): Array<Buffer> => {
    const found: Array<Buffer> = []
    let at = head + skip
    for (let left = count; left > 0;) {
      const block = blocks[Math.floor(at / blockBytes)]!
      const offset = at % blockBytes
      const part = block.subarray(offset, Math.min(blockBytes, offset + left))
      found.push(part)
      left -= part.length
      at += part.length
    }
    return found
  }

  return {
    start: () => start,
    end: () => end,
    size: () => end - start,
    push: (bytes, from, to) => {
      for (let at = from; at < to;) {
        const used = head + (end - start)
        if (used === blocks.length * blockBytes) blocks.push(pool.take())
        const offset = used % blockBytes
        const count = Math.min(to - at, blockBytes - offset)
        blocks[Math.floor(used / blockBytes)]!.set(bytes.subarray(at, at + count), offset)
        at += count
        end += count
      }
    },
    slices: (limit) => parts(0, Math.min(limit, end - start)),
    drop: (count) => {
      start += count
      head += count
      while (head >= blockBytes) {
        pool.give(blocks.shift()!)
        head -= blockBytes
      }
      if (start !== end) return
      for (const block of blocks.splice(0)) pool.give(block)
      head = 0
    },
    copy: (cursor, limit) => Buffer.concat(parts(cursor - start, Math.min(limit, end - cursor)))
  }
}

/**
 * The reading and writing end of a terminal. It gives its descriptor back when it is told to and not before; after that
 * nothing it is asked reaches the number, which may be anybody's by then.
 */
import * as fs from "node:fs"
import type * as net from "node:net"
import * as tty from "node:tty"
import { errorCode } from "./errorCode.ts"

/** Read at a time, and read ahead; a terminal gives 4 KB at once. */
const readAheadBytes = 16 * 1024

/** A terminal that everybody has left holds far less. */
const restLimitBytes = 1024 * 1024

export class PtyMaster extends tty.ReadStream {
  /** What was still in the kernel at the end; to be read after the stream. */
  readonly rest: Array<Uint8Array> = []
  /** Called when nothing will come any more but what is held here. */
  onEnd = () => {}
  readonly #fd: number
  #released = false
  #close: (() => void) | null = null

  constructor(fd: number) {
    super(fd, { readableHighWaterMark: readAheadBytes } as net.SocketConstructorOpts)
    this.#fd = fd
  }

  use(action: (fd: number) => void): void {
    if (!this.#released) action(this.#fd)
  }

  /** How much was taken. The descriptor does not block, so no write is ever under way when it is closed. */
  feed(bytes: Uint8Array): number | "full" | "closed" {
    if (this.#released) return "closed"
    try {
      return fs.writeSync(this.#fd, bytes)
    } catch (error) {
      return errorCode(error) === "EAGAIN" ? "full" : "closed"
    }
  }

  release(): void {
    this.#released = true
    this.destroy()
    this.#close?.()
  }

  /**
   * The stream ends when nobody has the terminal open. A leader may outlive that, and closing would hang up on it; so the
   * descriptor waits for `release`. And libuv before 1.52 (Node 22) takes a short read for the end when the other side has
   * hung up, so what is left is fetched here.
   */
  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    for (let bytes = this.#buffered(); bytes !== null; bytes = this.#buffered()) this.rest.push(bytes)
    for (let sum = 0; sum < restLimitBytes;) {
      const bytes = this.#readNow()
      if (bytes === null) break
      this.rest.push(bytes)
      sum += bytes.length
    }
    this.onEnd()
    this.#close = () => {
      this.#close = null
      super._destroy(error, callback)
    }
    if (this.#released) this.#close()
  }

  #buffered(): Uint8Array | null {
    return this.read() as Uint8Array | null
  }

  #readNow(): Uint8Array | null {
    const bytes = Buffer.allocUnsafe(readAheadBytes)
    try {
      const length = fs.readSync(this.#fd, bytes)
      return length === 0 ? null : bytes.subarray(0, length)
    } catch {
      // EIO: nobody has it open. EAGAIN: somebody has, and says nothing.
      return null
    }
  }
}

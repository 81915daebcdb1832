/**
 * Gives back what a large payload took, now: V8 counts only some of the memory that buffers hold, and would collect them after
 * the next 64 MB.
 */
import * as v8 from "node:v8"
import * as vm from "node:vm"

type Collector = (options: { readonly type: "minor" | "major" }) => void

let collector: Collector | null = null

const found = (): Collector => {
  v8.setFlagsFromString("--expose-gc")
  const gc: unknown = vm.runInNewContext("gc")
  v8.setFlagsFromString("--no-expose-gc")
  return typeof gc === "function" ? (gc as Collector) : () => undefined
}

/** What is young: a millisecond or two. */
export const collectYoung = (): void => (collector ??= found())({ type: "minor" })

/** All of it: some twenty, so not while others wait. */
export const collectAll = (): void => (collector ??= found())({ type: "major" })

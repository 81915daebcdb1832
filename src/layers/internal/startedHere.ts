/**
 * The children that this process has started itself, from the moment there is one to the moment its status was taken: by
 * Node, or by a thread of node-pty. Nobody else may take it, and whoever else is a child of ours was adopted.
 *
 * It is of the process and not of a layer, as its children are.
 */
import type { ChildProcess } from "node:child_process"
import * as diagnostics from "node:diagnostics_channel"

const ofNode = new Set<ChildProcess>()
const ofTerminals = new Set<number>()

/** Node tells of each that it makes, right before it starts it. */
diagnostics.subscribe("child_process", (message) => {
  const child = (message as { readonly process?: ChildProcess }).process
  if (child === undefined) return
  ofNode.add(child)
  child.once("exit", () => ofNode.delete(child))
})

/** node-pty has forked it. */
export const terminalStarted = (pid: number): void => void ofTerminals.add(pid)

/** node-pty has taken its status. */
export const terminalEnded = (pid: number): void => void ofTerminals.delete(pid)

export const isStartedHere = (pid: number): boolean => {
  if (ofTerminals.has(pid)) return true
  for (const child of ofNode) {
    if (child.pid === pid) return true
    // It could not be started; to listen for its error would keep that from whoever does not.
    if (child.pid === undefined) ofNode.delete(child)
  }
  return false
}

/** Which children are ours by birth, so that nobody takes the status that Node waits for. */
import { assert, describe, it } from "@effect/vitest"
import * as childProcess from "node:child_process"
import { once } from "node:events"
import { isStartedHere } from "../src/layers/internal/startedHere.ts"

describe("children that were started here", () => {
  it("are known from their start to the moment Node has their status", async () => {
    const child = childProcess.spawn("sleep", ["60"], { stdio: "ignore" })
    const pid = child.pid!
    assert.isTrue(isStartedHere(pid))
    const exited = once(child, "exit")
    child.kill("SIGKILL")
    const [code, signal] = (await exited) as [number | null, string | null]
    assert.deepStrictEqual([code, signal, isStartedHere(pid)], [null, "SIGKILL", false])
  })

  it("are not those that could not be started, and nobody else's", async () => {
    const missing = childProcess.spawn("/nowhere/program")
    const [error] = (await once(missing, "error")) as [NodeJS.ErrnoException]
    assert.strictEqual(error.code, "ENOENT")
    assert.deepStrictEqual([isStartedHere(process.pid), isStartedHere(process.ppid)], [false, false])
  })
})

/** Control, the gateway's socket: in the private runtime directory, 0600, taken over only from nobody. */
import * as NodeSocketServer from "@effect/platform-node/NodeSocketServer"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { isSocketError } from "effect/socket/Socket"
import { SocketServer } from "effect/socket/SocketServer"
import * as fs from "node:fs"
import { Settings } from "../services/Settings.ts"
import { ensurePrivateDirectory } from "./internal/privateDirectory.ts"
import { checkSocketPath, clearStaleSocket } from "./internal/unixSocket.ts"

export * from "../services/Control.ts"

export class ControlSocketUnusable extends Schema.TaggedError<ControlSocketUnusable>()(
  "ControlSocketUnusable",
  {
    path: Schema.String,
    problem: Schema.Literals(["in-use", "unusable"])
  }
) {
  override get message(): string {
    return this.problem === "in-use"
      ? `Another gateway answers on ${this.path}. Use it, stop it, or set HOLDFAST_HOME for a second one.`
      : `The control socket ${this.path} cannot be opened. Check the directory's owner, mode and free space, or set HOLDFAST_RUNTIME_DIR.`
  }
}

export const make = Effect.gen(function* () {
  const { paths } = yield* Settings
  const path = paths.controlSocket
  yield* checkSocketPath(path)
  yield* ensurePrivateDirectory(paths.runtime)
  yield* clearStaleSocket(path, (problem) => new ControlSocketUnusable({ path, problem }))
  const server = yield* Effect.mapError(
    NodeSocketServer.make({ path }),
    () => new ControlSocketUnusable({ path, problem: "unusable" })
  )
  // The directory already keeps others out; the mode says the same to whoever looks at the file alone.
  yield* Effect.try({
    try: () => fs.chmodSync(path, 0o600),
    catch: () => new ControlSocketUnusable({ path, problem: "unusable" })
  })
  return SocketServer.of({
    ...server,
    // A caller that leaves in the middle of an answer is its own business; the library would log it as an error.
    run: (handler) =>
      server.run((socket) =>
        Effect.catchCauseIf(
          handler(socket),
          (cause) => isSocketError(Cause.squash(cause)),
          () => Effect.logDebug("a caller left the control socket")
        )
      )
  })
})

export const layer = Layer.effect(SocketServer, make)

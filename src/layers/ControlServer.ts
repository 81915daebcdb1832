/**
 * Control, the gateway's socket: in the private runtime directory, 0600, taken over only from nobody.
 *
 * No caller holds the gateway up: while it ends, one that does not read its answers is cut off.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { SocketServer } from "effect/socket/SocketServer"
import { Callers, callerGraceMs, maxCallers } from "../services/Control.ts"
import { Settings } from "../services/Settings.ts"
import { makePrivateServer } from "./internal/privateServer.ts"

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
  const path = (yield* Settings).paths.controlSocket
  const { server, cutOff } = yield* makePrivateServer({
    socketPath: path,
    fail: (problem) => new ControlSocketUnusable({ path, problem }),
    maxCallers,
    admits: () => true
  })
  const scope = yield* Effect.scope
  return Context.make(SocketServer, server).pipe(
    Context.add(
      Callers,
      Callers.of({
        hurry: cutOff.pipe(
          Effect.andThen(Effect.sleep(callerGraceMs)),
          Effect.forever,
          Effect.forkIn(scope),
          Effect.asVoid
        )
      })
    )
  )
})

export const layer = Layer.effectContext(make)

/** Goes on top of the server that answers, so that it is the first to close. */
export const hurryAtEnd = Layer.effectDiscard(
  Effect.flatMap(Callers, ({ hurry }) => Effect.addFinalizer(() => hurry))
)

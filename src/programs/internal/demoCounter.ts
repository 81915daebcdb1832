/** The demo's background run: what it is, what it has printed so far, and its end. */
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { ControlClient } from "../../layers/ControlClient.ts"
import { runDefaults } from "../../services/Run.ts"
import type { World } from "./demoWorld.ts"

/** Its child is out of reach of every signal to its group or session. */
const script = `trap '' HUP TERM
setsid sh -c 'trap "" HUP TERM; sleep 300' &
i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done`

/** Returns when it has begun to count. */
export const startCounter = Effect.fnUntraced(function* (world: World) {
  const client = yield* ControlClient
  const { id } = yield* client.StartRun({
    spec: {
      ...runDefaults,
      command: "sh",
      args: ["-c", script],
      cwd: world.work,
      name: "counter",
      killGraceMs: 300,
      pty: { cols: 80, rows: 24 }
    },
    variables: {}
  })
  yield* client.WatchRun({ runId: id }).pipe(
    Stream.takeUntil(({ leader }) => leader !== null),
    Stream.runDrain
  )
  yield* client
    .ReadRun({ runId: id, from: { _tag: "start" }, follow: true })
    .pipe(Stream.take(1), Stream.runDrain)
  return yield* client.FindRun({ ref: id })
})

/** As it is, with every number that is whole in its log. */
export const lookAtCounter = Effect.fnUntraced(function* (runId: string) {
  const client = yield* ControlClient
  const { state, leader } = yield* client.FindRun({ ref: runId })
  const pieces = yield* client
    .ReadRun({ runId, from: { _tag: "start" }, follow: false })
    .pipe(Stream.runCollect)
  const text = Buffer.concat(pieces.map(({ bytes }) => bytes)).toString()
  const numbers = text
    .slice(0, text.lastIndexOf("\n") + 1)
    .split(/\s+/)
    .filter((word) => word !== "")
    .map(Number)
  return { state, leader, numbers }
})

export const stopCounter = (runId: string) =>
  Effect.flatMap(ControlClient, (client) => client.EndRun({ runId, graceMs: null }))

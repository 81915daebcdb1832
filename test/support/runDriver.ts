/** What a small program does with runs for a test that asks it in lines of JSON: starts them, ends them, lists them. */
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { createInterface } from "node:readline"
import type { RunInfo } from "../../src/services/PtySupervisor.ts"
import { runDefaults, type RunSpec } from "../../src/services/Run.ts"

export interface DrivenRun extends Partial<RunSpec> {
  readonly command: string
  readonly args: ReadonlyArray<string>
}

export type Ask =
  /** Answered with `Begun` when each has printed `up` or is over. */
  | { readonly _tag: "start"; readonly runs: ReadonlyArray<DrivenRun> }
  /** How they are ended; by itself, for those with a deadline. Answered as a list is, when that says that it is done. */
  | { readonly _tag: "end"; readonly by: "stop" | "scope" | "layer" | "itself" }
  /** Answered with every run there is, as `Listed`. */
  | { readonly _tag: "list" }

export interface Begun {
  readonly ids: ReadonlyArray<string>
  /** Epoch milliseconds: when the last of them was started. */
  readonly lastAt: number
}

export interface Listed extends Pick<RunInfo, "id" | "state" | "lost" | "extinction" | "status" | "endedAt"> {
  readonly reason: string | null
  readonly command: string
  /** Of its leader. */
  readonly pid: number | null
}

/** Each is a process that starts others; on two cores more at once only wait for each other. */
const startsAtOnce = 4

const pageOf = ({ id, state, reason, lost, extinction, status, endedAt, leader, spec }: RunInfo): Listed => ({
  id,
  state,
  reason: reason === null ? null : reason._tag === "spawn-error" ? reason.detail : reason._tag,
  lost,
  extinction,
  status,
  endedAt,
  command: spec.command,
  pid: leader?.pid ?? null
})

const say = (value: unknown) => Effect.sync(() => process.stdout.write(`${JSON.stringify(value)}\n`))

/** Until its input ends. */
export const drive = (hands: {
  readonly home: string
  readonly start: (spec: RunSpec) => Effect.Effect<RunInfo, unknown>
  readonly watch: (runId: string) => Stream.Stream<RunInfo, unknown>
  readonly read: (runId: string) => Stream.Stream<{ readonly bytes: Uint8Array }, unknown>
  readonly list: Effect.Effect<ReadonlyArray<RunInfo>, unknown>
  readonly stop: (runId: string) => Effect.Effect<unknown, unknown>
  readonly closeScope: Effect.Effect<void>
  readonly closeLayer: Effect.Effect<void>
}): Effect.Effect<void, unknown> => {
  const ids: Array<string> = []
  const stands = (id: string) =>
    hands.read(id).pipe(
      Stream.mapAccum(
        () => "",
        (before, { bytes }) => {
          const text = before + Buffer.from(bytes).toString()
          return [text, [text]] as const
        }
      ),
      Stream.takeUntil((text) => /^up\r?$/m.test(text)),
      Stream.runDrain,
      Effect.raceFirst(Stream.runDrain(hands.watch(id)))
    )
  const begin = (run: DrivenRun) =>
    Effect.gen(function* () {
      const { id } = yield* hands.start({ ...runDefaults, cwd: hands.home, ...run })
      yield* hands.watch(id).pipe(
        Stream.takeUntil(({ leader, endedAt }) => leader !== null || endedAt !== null),
        Stream.runDrain
      )
      const at = Date.now()
      yield* stands(id)
      return { id, at }
    })
  const list = Effect.map(hands.list, (infos) => infos.map(pageOf))

  const answer = (ask: Ask): Effect.Effect<unknown, unknown> => {
    switch (ask._tag) {
      case "start":
        return Effect.map(Effect.forEach(ask.runs, begin, { concurrency: startsAtOnce }), (begun): Begun => {
          ids.push(...begun.map(({ id }) => id))
          return { ids: begun.map(({ id }) => id), lastAt: Math.max(...begun.map(({ at }) => at)) }
        })
      case "end": {
        const all = (each: (id: string) => Effect.Effect<unknown, unknown>) =>
          Effect.forEach(ids, each, { concurrency: "unbounded", discard: true })
        const ended = {
          stop: all(hands.stop),
          scope: hands.closeScope,
          layer: hands.closeLayer,
          itself: all((id) => Stream.runDrain(hands.watch(id)))
        }[ask.by]
        // After its layer nobody can be asked.
        return ask.by === "layer" ? Effect.as(ended, []) : Effect.andThen(ended, list)
      }
      case "list":
        return list
    }
  }
  return Stream.fromAsyncIterable(createInterface({ input: process.stdin }), (cause) => cause).pipe(
    Stream.runForEach((line) => Effect.flatMap(answer(JSON.parse(line) as Ask), say))
  )
}

/** The first line of a driver. */
export const greet = say({ pid: process.pid })

/**
 * An InstanceMark without processes: a test says which processes carry which mark and what a sweep leaves, and reads
 * what was done. By default every range is free, every mark can be taken, and a sweep ends all of its members.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import {
  contains,
  InstanceMark,
  type Marked,
  type MarkRange,
  MarkUnavailable,
  rangeOf
} from "../services/InstanceMark.ts"

export class FakeInstanceMark extends Context.Service<
  FakeInstanceMark,
  {
    /** `choose`, `take 4096`, `sweep 4096`: the upper bound of the range, in order. */
    readonly log: Effect.Effect<ReadonlyArray<string>>
    readonly runs: (member: Marked) => Effect.Effect<void>
    /** The next choices, in order; after them the ranges follow a fixed sequence. */
    readonly willChoose: (...ranges: ReadonlyArray<MarkRange>) => Effect.Effect<void>
    readonly refuses: (what: "choose" | "take", problem: string) => Effect.Effect<void>
    /** The limit this process starts with. */
    readonly limitedTo: (hard: number) => Effect.Effect<void>
    /** Processes of these pids outlive every sweep. */
    readonly clings: (...pids: ReadonlyArray<number>) => Effect.Effect<void>
  }
>()("holdfast/testing/FakeInstanceMark") {}

/** A range as a gateway outside every other takes it. */
export const range = (index: number): MarkRange => rangeOf((index + 2) * 2 ** 41)

export const layer: Layer.Layer<InstanceMark | FakeInstanceMark> = Layer.effectContext(
  Effect.sync(() => {
    const log: Array<string> = []
    const chosen: Array<MarkRange> = []
    const refused = new Map<string, string>()
    const clinging = new Set<number>()
    let members: ReadonlyArray<Marked> = []
    let own: number | null = null
    let next = 0
    const refusal = (what: string) => {
      const problem = refused.get(what)
      return problem === undefined ? Effect.void : Effect.fail(new MarkUnavailable({ problem }))
    }
    return Context.make(InstanceMark, {
      own: Effect.sync(() => own),
      choose: Effect.suspend(() => {
        log.push("choose")
        return Effect.as(refusal("choose"), chosen.shift() ?? range(next++))
      }),
      take: ({ high }) =>
        Effect.suspend(() => {
          log.push(`take ${high}`)
          return Effect.tap(refusal("take"), () => Effect.sync(() => (own = high)))
        }),
      members: (range) => Effect.sync(() => members.filter(({ mark }) => contains(range, mark))),
      sweep: (range) =>
        Effect.sync(() => {
          log.push(`sweep ${range.high}`)
          const inside = members.filter(({ mark }) => contains(range, mark))
          const survivors = inside.filter(({ identity }) => clinging.has(identity.pid))
          const ended = inside.filter((member) => !survivors.includes(member))
          members = members.filter((member) => !ended.includes(member))
          return { ended, survivors, proven: survivors.length === 0 }
        })
    }).pipe(
      Context.add(FakeInstanceMark, {
        log: Effect.sync(() => [...log]),
        runs: (member) => Effect.sync(() => void (members = [...members, member])),
        willChoose: (...ranges) => Effect.sync(() => void chosen.push(...ranges)),
        refuses: (what, problem) => Effect.sync(() => void refused.set(what, problem)),
        limitedTo: (hard) => Effect.sync(() => void (own = hard)),
        clings: (...pids) =>
          Effect.sync(() => {
            for (const pid of pids) clinging.add(pid)
          })
      })
    )
  })
)

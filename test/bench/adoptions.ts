/** The next gateway: how soon it goes on with a hundred runs, whether their output is whole, and what dead rows cost it. */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as fs from "node:fs"
import * as path from "node:path"
import { DatabaseSync } from "node:sqlite"
import { startGateway } from "../support/gateway.ts"
import { ensure } from "./helper.ts"
import { connect, idler, openKept, specOf, startRuns, until } from "./kept.ts"
import { type Measured, median, row } from "./report.ts"

const counters = 100

/** Counts, ten lines a second, until a file is there; then says elsewhere how far it has come, and stays. */
const counter = (stop: string, told: string) =>
  specOf("perl", [
    "-e",
    `$| = 1; my $n = 0; until (-e $ARGV[0]) { print ++$n, "\\n"; select undef, undef, undef, .1 }
     open my $told, ">", "$ARGV[1].new"; print $told $n; close $told; rename "$ARGV[1].new", $ARGV[1]; sleep 300`,
    stop,
    told
  ])

/** A gateway in a scope of its own, which a signal may end before. */
const life = Effect.fnUntraced(function* (place: Parameters<typeof startGateway>[0]) {
  const scope = yield* Scope.fork(yield* Effect.scope)
  const from = performance.now()
  const gateway = yield* startGateway(place).pipe(Scope.provide(scope))
  const readyMs = performance.now() - from
  const client = yield* connect(place).pipe(Scope.provide(scope))
  const end = (signal: NodeJS.Signals) => Effect.andThen(gateway.end(signal), Scope.close(scope, Exit.void))
  return { client, from, readyMs, end }
})

/** Of the lines 1 to `last`, what a log lacks, in bytes. */
const lost = (log: string, last: number): number => {
  const lines = new Set(log.split("\r\n"))
  let bytes = 0
  for (let n = 1; n <= last; n++) if (!lines.has(String(n))) bytes += `${n}\r\n`.length
  return bytes
}

const restart = (signal: "SIGKILL" | "SIGTERM") =>
  Effect.gen(function* () {
    const { place, variables } = yield* openKept
    const [first, files] = [yield* life(place), place.workspace]
    const stop = path.join(files, "stop")
    const tolds = Array.from({ length: counters }, (_, index) => path.join(files, `told-${index}`))
    const begun = yield* startRuns(
      first.client,
      tolds.map((told) => counter(stop, told)),
      variables
    )
    const told = new Map(begun.map(({ id, pid }) => [id, pid]))
    yield* first.end(signal)
    const next = yield* life(place)
    const { runs } = yield* next.client.ListRuns({ ended: true })
    const adoptedMs = performance.now() - next.from
    const same = runs.filter(({ run }) => run.state === "Running" && run.leader?.pid === told.get(run.id))
    yield* ensure(same.length === counters, `${same.length} of ${counters} runs are adopted`)
    fs.writeFileSync(stop, "")
    yield* until("all have said how far they came", () => tolds.every((file) => fs.existsSync(file)))
    const byArgument = new Map(runs.map(({ run }) => [run.spec.args.at(-1)!, run.id]))
    const missing = yield* Effect.forEach(
      tolds,
      (file) =>
        Effect.gen(function* () {
          const last = Number(fs.readFileSync(file, "utf8"))
          const read = next.client
            .ReadRun({ runId: byArgument.get(file)!, from: { _tag: "start" }, follow: false })
            .pipe(Stream.runCollect)
          const log = Buffer.concat((yield* read).map(({ bytes }) => bytes)).toString()
          return lost(log, last)
        }),
      { concurrency: 8 }
    )
    yield* next.end("SIGINT")
    return { signal, adoptedMs, lostBytes: missing.reduce((sum, bytes) => sum + bytes, 0) }
  }).pipe(Effect.scoped)

/** A start where there is nothing to go on with. */
const freshStart = Effect.gen(function* () {
  const { place } = yield* openKept
  const { readyMs, end } = yield* life(place)
  yield* end("SIGINT")
  return readyMs
}).pipe(Effect.scoped)

/** Rows `adopt-100` and `adopt-100-lost`. */
export const adopt = (quick: boolean) =>
  Effect.gen(function* () {
    const samples = yield* Effect.forEach(Array.from({ length: quick ? 1 : 3 }), () =>
      Effect.gen(function* () {
        const floor = yield* freshStart
        return [
          { floor, ...(yield* restart("SIGKILL")) },
          { floor, ...(yield* restart("SIGTERM")) }
        ]
      })
    ).pipe(Effect.map((all) => all.flat()))
    return {
      rows: [
        row({
          id: "adopt-100",
          what: `the next gateway's start until ${counters} runs are listed as adopted`,
          unit: "ms",
          value: median(samples.map((one) => one.adoptedMs)),
          floor: median(samples.map((one) => one.floor)),
          floorIs: "a gateway's start to ready, with nothing to adopt",
          n: samples.length,
          budget: { on: "value", atMost: 1_000 }
        }),
        row({
          id: "adopt-100-lost",
          what: "bytes of their output lost over it, after SIGKILL and after SIGTERM",
          unit: "bytes",
          value: samples.reduce((sum, one) => sum + one.lostBytes, 0),
          floor: 0,
          floorIs: "nothing",
          n: samples.length,
          budget: { on: "value", atMost: 0 }
        })
      ]
    } satisfies Measured
  })

const openRows = 500
/** Above every number the kernel gives. */
const nobody = 2 ** 22 + 1

/** Open rows of a keeper of this boot that is dead, with leaders that are. */
const plant = (home: string, at: { readonly bootId: string; readonly pidNamespace: string }): void => {
  const database = new DatabaseSync(`${home}/state/holdfast.db`)
  try {
    database.exec("BEGIN")
    database
      .prepare(
        "INSERT INTO keepers (keeper_id, epoch, boot_id, pid_namespace, pid, start_token, socket_path, started_at) VALUES ('dead', 'dead', ?, ?, ?, '1', ?, 1)"
      )
      .run(at.bootId, at.pidNamespace, nobody, `${home}/dead.sock`)
    const insert = database.prepare(
      "INSERT INTO runs (run_id, epoch, spec, boot_id, pid_namespace, created_at, attempt, pid, start_token) VALUES (?, 'dead', ?, ?, ?, 1, 1, ?, '1')"
    )
    for (let index = 0; index < openRows; index++)
      insert.run(
        `r-01J${String(index).padStart(23, "0")}`,
        JSON.stringify(idler),
        at.bootId,
        at.pidNamespace,
        nobody + index
      )
    database.exec("COMMIT")
  } finally {
    database.close()
  }
}

export const reconcile = (quick: boolean) =>
  Effect.gen(function* () {
    const samples = yield* Effect.forEach(Array.from({ length: quick ? 3 : 7 }), () =>
      Effect.gen(function* () {
        const { place } = yield* openKept
        const first = yield* life(place)
        const { owner } = yield* first.client.Status()
        yield* first.end("SIGINT")
        const again = yield* life(place)
        yield* again.end("SIGINT")
        plant(place.home, owner)
        const next = yield* life(place)
        const { reconciled } = yield* next.client.Status()
        const closed = reconciled.filter(({ dealing }) => dealing._tag === "close")
        yield* ensure(closed.length === openRows, `${closed.length} of ${openRows} rows are closed`)
        yield* next.end("SIGINT")
        return { ms: next.readyMs, floor: again.readyMs }
      }).pipe(Effect.scoped)
    )
    return {
      rows: [
        row({
          id: "reconcile-500",
          what: `a gateway's start to ready with ${openRows} open rows of a dead keeper`,
          unit: "ms",
          value: median(samples.map((one) => one.ms)),
          floor: median(samples.map((one) => one.floor)),
          floorIs: "the same without them",
          n: samples.length,
          budget: { on: "value", atMost: 2_000 }
        })
      ]
    } satisfies Measured
  })

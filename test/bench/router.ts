/**
 * The connection in a process of its own: how many messages a second it takes from its pipe to their threads' readers,
 * and what a thread that is flooded costs one that is not.
 */
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import * as References from "effect/References"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as fs from "node:fs"
import * as path from "node:path"
import { fileURLToPath } from "node:url"
import { open } from "../../src/layers/internal/appServerConnection.ts"
import { type AppServerConnection, AppServerProcess } from "../../src/services/AppServerProcess.ts"
import { makePlace } from "../support/gateway.ts"
import { delta } from "./flooder.ts"
import { processOf } from "./leaseStack.ts"
import { quantile } from "./report.ts"
import { serve } from "./serve.ts"

/** What a read of a pipe gives at most. */
const chunkBytes = 65_536

const run = <A, E>(effect: Effect.Effect<A, E, Scope.Scope>): Promise<A> =>
  Effect.runPromise(Effect.provideService(Effect.scoped(effect), References.MinimumLogLevel, "Error"))

/** The lines as reads of a pipe would bring them: cut anywhere. */
const chunksOf = (lines: ReadonlyArray<string>): ReadonlyArray<Uint8Array> => {
  const bytes = Buffer.from(`${lines.join("\n")}\n`)
  return Array.from({ length: Math.ceil(bytes.length / chunkBytes) }, (_, index) =>
    bytes.subarray(index * chunkBytes, (index + 1) * chunkBytes)
  )
}

/** A read comes with a turn of the event loop. */
const nextTurn = Effect.callback<void>((resume) => {
  const handle = setImmediate(() => resume(Effect.void))
  return Effect.sync(() => clearImmediate(handle))
})

type Incoming = Effect.Success<ReturnType<AppServerConnection["thread"]>>

/** As a run reads: one message after the other, as long as there are some, without a pause between. */
const readAll = (incoming: Incoming, onMessage: () => void) =>
  Effect.forever(Effect.map(Queue.take(incoming), onMessage), { disableYield: true })

/** Milliseconds until every message was taken by its thread's reader. */
const routed = (chunks: ReadonlyArray<Uint8Array>, threadIds: ReadonlyArray<string>, messages: number) =>
  Effect.scoped(
    Effect.gen(function* () {
      const go = yield* Deferred.make<void>()
      const done = yield* Deferred.make<number>()
      const connection = yield* open({
        generation: 1,
        transport: {
          input: Stream.fromEffect(Deferred.await(go)).pipe(
            Stream.flatMap(() => Stream.fromIterable(chunks)),
            Stream.rechunk(1),
            Stream.tap(() => nextTurn),
            Stream.concat(Stream.never)
          ),
          write: () => Effect.void
        },
        requestTimeoutMs: 10_000,
        stderrTail: () => "",
        life: {
          probeIntervalMs: 60_000,
          probeTimeoutMs: 60_000,
          silentLimitMs: 60_000,
          cpuTimeMs: () => null
        },
        onServerRequest: () => Effect.die("nothing is asked here")
      })
      let taken = 0
      for (const threadId of threadIds) {
        const incoming = yield* connection.thread(threadId)
        yield* readAll(incoming, () => {
          if (++taken === messages) Deferred.doneUnsafe(done, Effect.succeed(performance.now()))
        }).pipe(
          Effect.catch((error) => Deferred.die(done, error)),
          Effect.forkScoped({ startImmediately: true })
        )
      }
      const from = performance.now()
      yield* Deferred.succeed(go, undefined)
      return (yield* Deferred.await(done)) - from
    })
  )

/** The same bytes, read in the same steps, split and parsed, and nothing done with it. */
const parsed = (chunks: ReadonlyArray<Uint8Array>, messages: number) =>
  Effect.gen(function* () {
    const decoder = new TextDecoder()
    const from = performance.now()
    let [rest, seen] = ["", 0]
    for (const chunk of chunks) {
      yield* nextTurn
      const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n")
      rest = lines.pop()!
      for (const line of lines) if (typeof JSON.parse(line) === "object") seen++
    }
    if (seen !== messages) return yield* Effect.die(`${seen} of ${messages} lines were parsed`)
    return performance.now() - from
  })

const Sent = Schema.Struct({ sent: Schema.Int })
const Nothing = Schema.Struct({})

/** Pings come at no fixed distance, so that none keeps step with the flood's timer. */
const gapMs = (index: number): number => 1 + ((index * 7) % 4)

interface Ping {
  /** From the request until its answer and the thread's own message were both taken, in ms. */
  readonly all: number
  /** The same less what this process and the child waited for a CPU that others had. */
  readonly own: number
}

/** Milliseconds that the main thread of a process was ready to run and did not: the second number, in nanoseconds. */
const waited = (pid: number): number =>
  Number(fs.readFileSync(`/proc/${pid}/schedstat`, "latin1").split(" ")[1]) / 1e6

const pings = Effect.fnUntraced(function* (
  connection: AppServerConnection,
  threadId: string,
  incoming: Incoming,
  count: number
) {
  const waiting = () => waited(process.pid) + waited(connection.pid!)
  const found: Array<Ping> = []
  for (let index = 0; index < count; index++) {
    const before = waiting()
    const from = performance.now()
    yield* Effect.all([Queue.take(incoming), connection.request("echo", { threadId }, Nothing)], {
      concurrency: 2
    })
    const all = performance.now() - from
    found.push({ all, own: Math.max(0, all - (waiting() - before)) })
    yield* Effect.sleep(gapMs(index))
  }
  return found
})

const handlers = {
  /** Messages a second of `threads` threads in turns, each with a reader. */
  rate: ({
    threads,
    messages,
    rounds,
    warmup
  }: {
    readonly threads: number
    readonly messages: number
    readonly rounds: number
    readonly warmup: number
  }) =>
    run(
      Effect.gen(function* () {
        const threadIds = Array.from(
          { length: threads },
          (_, index) => `0199a213-81c0-7800-8aa1-${String(index).padStart(12, "0")}`
        )
        const lines = Array.from({ length: messages }, (_, index) =>
          delta(threadIds[index % threads]!, "word ".repeat(10))
        )
        const chunks = chunksOf(lines)
        const ways = { routed: routed(chunks, threadIds, messages), parsed: parsed(chunks, messages) }
        const order = ["routed", "parsed"] as const
        const perSecond = { routed: [] as Array<number>, parsed: [] as Array<number> }
        for (let round = -warmup; round < rounds; round++)
          for (const way of round % 2 === 0 ? order : order.toReversed()) {
            const ms = yield* ways[way]
            if (round >= 0) perSecond[way].push((messages / ms) * 1000)
          }
        return { perSecond, lineBytes: Math.round(Buffer.byteLength(lines.join("\n")) / messages) }
      })
    ),

  /**
   * p99 of a quiet thread's pings in each of `blocks` blocks, for each of the rates at which another thread of the
   * same child is flooded meanwhile; and the rates that came about.
   */
  fair: ({
    rates,
    blocks,
    count
  }: {
    readonly rates: ReadonlyArray<number>
    readonly blocks: number
    readonly count: number
  }) =>
    run(
      Effect.gen(function* () {
        const place = yield* makePlace()
        const program = path.join(place.home, "flooder")
        const script = fileURLToPath(new URL("./flooder.ts", import.meta.url))
        fs.writeFileSync(program, `#!/bin/sh\nexec "${process.execPath}" --no-warnings "${script}"\n`, {
          mode: 0o700
        })
        const server = Context.get(yield* Layer.build(processOf(place, program)), AppServerProcess)
        const connection = yield* server.start(1, "key")
        const [quiet, loud] = ["quiet", "loud"] as const
        const incoming = yield* connection.thread(quiet)
        const noise = yield* connection.thread(loud)
        yield* readAll(noise, () => undefined).pipe(
          Effect.orDie,
          Effect.forkScoped({ startImmediately: true })
        )
        const flood = (perSecond: number) =>
          Effect.map(connection.request("flood", { threadId: loud, perSecond }, Sent), ({ sent }) => sent)
        const sides = rates.map((rate) => ({
          rate,
          all: [] as Array<number>,
          own: [] as Array<number>,
          perSecond: [] as Array<number>
        }))
        for (let block = -1; block < blocks; block++)
          for (const side of block % 2 === 0 ? sides : sides.toReversed()) {
            yield* flood(side.rate)
            const from = performance.now()
            const found = yield* pings(connection, quiet, incoming, count)
            const elapsed = performance.now() - from
            const sent = yield* flood(0)
            if (block < 0) continue
            for (const which of ["all", "own"] as const)
              side[which].push(
                quantile(
                  found.map((ping) => ping[which]),
                  0.99
                )
              )
            side.perSecond.push((sent / elapsed) * 1000)
          }
        return sides
      })
    )
}

export type Router = typeof handlers

serve(handlers)

/** holdfast/testing: what its fakes promise to whoever tests with them, where no test of ours needs it. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { layer as layerLease } from "../src/layers/AppServerLease.ts"
import { layer as layerTree } from "../src/layers/SupervisionTree.ts"
import { AppServerLease } from "../src/services/AppServerLease.ts"
import { AuditLog } from "../src/services/AuditLog.ts"
import { PtySupervisor } from "../src/services/PtySupervisor.ts"
import { type LogPosition, RunLog } from "../src/services/RunLog.ts"
import {
  FakeAppServerProcess,
  FakeAuditLog,
  FakeCodexAuth,
  FakePtySupervisor,
  FakeRunLog,
  VirtualTime
} from "../src/testing/index.ts"

const Lease = layerLease.pipe(
  Layer.provideMerge(FakeAppServerProcess.layer),
  Layer.provide([FakeCodexAuth.layer, layerTree])
)

const Greeting = Schema.Struct({ said: Schema.String })

describe("holdfast/testing", () => {
  it.effect("an app-server answers what it is told to and speaks to whoever listens to the thread", () =>
    Effect.gen(function* () {
      const server = yield* FakeAppServerProcess.FakeAppServer
      const connection = yield* (yield* AppServerLease).borrow({ runId: "run", spawnedBy: null })
      const { generation } = connection
      server.answersWith((method, params) => Effect.succeed({ said: `${method} ${JSON.stringify(params)}` }))
      const [mine, other] = [yield* connection.thread("mine"), yield* connection.thread("other")]
      const message = { _tag: "notification", method: "item/started", params: {} } as const
      yield* server.says(generation, "mine", message)
      assert.deepStrictEqual(
        [yield* connection.request("greet", { to: 1 }, Greeting), yield* Queue.take(mine)],
        [{ said: 'greet {"to":1}' }, message]
      )
      server.answersWith(() => Effect.never)
      const waiting = yield* Effect.forkChild(Effect.flip(connection.request("greet", {}, Greeting)))
      yield* VirtualTime.settle
      yield* server.dies(generation)
      const lost = [yield* Fiber.join(waiting), yield* Effect.flip(Queue.take(other))]
      assert.deepStrictEqual(
        lost.map(({ _tag }) => _tag),
        ["AppServerLost", "AppServerLost"]
      )
    }).pipe(Effect.provide(Lease))
  )

  it.effect("what a child prints is read as it comes, until it leaves, and from any position", () =>
    Effect.gen(function* () {
      const children = yield* FakePtySupervisor.FakeChildren
      const [runs, log] = [yield* PtySupervisor, yield* RunLog]
      const read = (id: string, from: LogPosition, follow = false) =>
        Effect.map(Stream.runCollect(log.read(id, from, { follow })), (chunks) =>
          chunks.map(({ cursor, bytes }) => `${cursor}:${Buffer.from(bytes).toString()}`)
        )
      const { id } = yield* runs.spawn(FakePtySupervisor.specOf("a"))
      yield* VirtualTime.settle
      const following = yield* Effect.forkChild(read(id, { _tag: "start" }, true))
      for (const text of ["one\n", "two\n"]) {
        yield* children.prints("a", text)
        yield* VirtualTime.settle
      }
      yield* children.leaves("a", 3)
      assert.deepStrictEqual(yield* Fiber.join(following), ["0:one\n", "4:two\n"])
      const ended = yield* Stream.runLast(runs.watch(id))
      assert.deepStrictEqual(
        {
          status: ended._tag === "Some" ? ended.value.status : null,
          text: yield* (yield* FakeRunLog.FakeRunLog).text(id),
          end: yield* read(id, { _tag: "end" }),
          cursor: yield* read(id, { _tag: "cursor", cursor: 2 }),
          bytes: yield* read(id, { _tag: "tail-bytes", bytes: 2 }),
          lines: yield* read(id, { _tag: "tail-lines", lines: 1 }),
          missing: (yield* Effect.flip(read("r-none", { _tag: "start" })))._tag
        },
        {
          status: { code: 3, signal: null },
          text: "one\ntwo\n",
          end: [],
          cursor: ["2:e\ntwo\n"],
          bytes: ["6:o\n"],
          lines: ["4:two\n"],
          missing: "RunLogMissing"
        }
      )
    }).pipe(Effect.provide(FakePtySupervisor.layer))
  )

  it.effect("an audit log has the rows of before, tells the new ones, and refuses when it is broken", () =>
    Effect.gen(function* () {
      const [log, fake] = [yield* AuditLog, yield* FakeAuditLog.FakeAuditLog]
      const told = yield* Effect.forkChild(Stream.runHead(log.live), { startImmediately: true })
      yield* fake.has({ ...FakeAuditLog.entry, callId: "before", verdict: "deny" })
      yield* log.append({ ...FakeAuditLog.entry, callId: "now" })
      yield* fake.breaks(true)
      const refused = yield* Effect.flip(log.append(FakeAuditLog.entry))
      const live = yield* Fiber.join(told)
      assert.deepStrictEqual(
        {
          rows: (yield* fake.rows).map(({ seq, callId }) => [seq, callId]),
          live: live._tag === "Some" ? live.value.callId : null,
          refused: refused._tag,
          decided: yield* Effect.forEach(["before", "now", "never"], (id) => log.isDecided("relay-1", id)),
          found: (yield* log.find(2))?.callId,
          none: yield* log.find(3)
        },
        {
          rows: [
            [1, "before"],
            [2, "now"]
          ],
          live: "now",
          refused: "AuditUnavailable",
          decided: [false, true, false],
          found: "now",
          none: null
        }
      )
    }).pipe(Effect.provide(FakeAuditLog.layer))
  )
})

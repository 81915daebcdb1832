/** The Codex driver in a world of fakes: app-servers that are scripts, one a generation; what was asked, and levers. */
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as fs from "node:fs"
import * as os from "node:os"
import { layer, layerKept } from "../../src/layers/AgentDriverCodex.ts"
import { InstanceMark } from "../../src/services/InstanceMark.ts"
import { layerOf as layerEpoch } from "../../src/testing/Epoch.ts"
import { AgentDriver, type AgentEvent, type RunRequest } from "../../src/services/AgentDriver.ts"
import {
  AppServerLost,
  AppServerRejected,
  AppServerRequestTimeout,
  type BorrowerShed,
  type PoisonReason,
  type RequestFailure,
  ThreadNotFound
} from "../../src/services/AppServerFailure.ts"
import { AppServerLease, type BorrowRequest } from "../../src/services/AppServerLease.ts"
import type { AppServerConnection, Incoming } from "../../src/services/AppServerProcess.ts"
import { AuditLog, AuditUnavailable, type AuditRow } from "../../src/services/AuditLog.ts"
import { Handover } from "../../src/services/Keeper.ts"
import type { Decision } from "../../src/services/Policy.ts"
import { PtySupervisor, type RunInfo, RunNotFound } from "../../src/services/PtySupervisor.ts"
import {
  type Fenced,
  FenceNotRaised,
  type Relay,
  RelayRegistry,
  type RelaySpec
} from "../../src/services/RelayRegistry.ts"
import { type ThreadRecord, ThreadStore } from "../../src/services/ThreadStore.ts"
import { type TurnRecord, TurnStore } from "../../src/services/TurnStore.ts"

export const lostAt = (generation: number): AppServerLost =>
  new AppServerLost({ generation, reason: { _tag: "stdio-closed" }, stderrTail: "" })

const decision = (tag: "allow" | "deny"): Decision => ({
  verdict: { _tag: tag },
  policy: "p",
  reason: "r",
  votes: []
})

export interface WorldOptions {
  readonly trustStatus?: string
  readonly approve?: "allow" | "deny" | "fail"
  /** Approvals wait for this. */
  readonly gate?: Effect.Effect<unknown>
  readonly origin?: "spawned" | "adopted"
  /** How turn/interrupt is answered; `{}` unless given. */
  readonly interrupt?: "idle" | "rejects" | "never"
  /** What `backgroundTerminals/list` shows, look by look; then nothing. */
  readonly terminals?: ReadonlyArray<ReadonlyArray<string>>
  readonly fenced?: Fenced | "fails"
  /** Ids of calls that no hook asked about. */
  readonly undecided?: ReadonlyArray<string>
  /** Codex opens no thread before. */
  readonly opening?: Deferred.Deferred<void>
  /** So many opened threads turn out to run with full access, whatever was asked for. */
  readonly loadedBySomebody?: number
  /** The app-server is the run `r-1`, and this is what an earlier gateway left on it. */
  readonly kept?: {
    readonly left?: ReadonlyArray<TurnRecord>
    /** What `thread/read` answers. */
    readonly history?: unknown
    /** False: it has ended meanwhile. */
    readonly runs?: boolean
    readonly rows?: ReadonlyArray<AuditRow>
  }
  /** The thread was never written, so the next generation does not know it. */
  readonly forgetsThreads?: boolean
}

interface Server {
  readonly connection: AppServerConnection
  readonly queues: Map<string, Queue.Queue<Incoming, AppServerLost | BorrowerShed>>
  lost: AppServerLost | null
}

export interface World {
  /** `method` of every request, in order; with its params where a test looks at them. */
  readonly asked: Array<string>
  readonly params: Map<string, unknown>
  /** To the borrower of a thread, `T` unless given. */
  readonly say: (message: Incoming, thread?: string) => Effect.Effect<unknown>
  /** The borrowed app-server is lost; the next borrow gets the next generation. */
  readonly hangUp: Effect.Effect<unknown>
  readonly turnStarted: Effect.Effect<unknown>
  /** The ledger. */
  readonly turns: ReadonlyMap<string, TurnRecord>
  /** From now on whatever ends is left to the next gateway. */
  readonly leave: () => void
  /** From now on no request is answered; each has the deadline it asks for. */
  readonly goesSilent: () => void
  readonly driver: AgentDriver["Service"]
  readonly remembered: ReadonlyArray<ThreadRecord>
  readonly borrows: ReadonlyArray<BorrowRequest>
  readonly registered: ReadonlyArray<RelaySpec>
  readonly retired: ReadonlyArray<PoisonReason>
  /** The relay's rows. */
  readonly rows: Queue.Queue<AuditRow>
  readonly log: Array<string>
}

const sandboxTypes = {
  "read-only": "readOnly",
  "workspace-write": "workspaceWrite",
  "danger-full-access": "dangerFullAccess"
}

const methodOf = { start: "thread/start", list: "thread/backgroundTerminals/list" } as const

export const world = Effect.fnUntraced(function* (
  options: WorldOptions = {}
): Effect.fn.Return<World, never, Scope.Scope> {
  const asked: Array<string> = []
  const params = new Map<string, unknown>()
  const log: Array<string> = []
  const turns = yield* Queue.unbounded<string>()
  const looks = [...(options.terminals ?? [])]
  const retired: Array<PoisonReason> = []
  let hooks: Record<string, unknown> = {}
  let silent = false
  let threadCount = 0
  let turnCount = 0
  const numbered = (letter: string, count: number): string => (count === 1 ? letter : `${letter}${count}`)

  let foreign = options.loadedBySomebody ?? 0
  const opened = (
    id: string,
    asked: {
      readonly config: { readonly hooks: typeof hooks }
      readonly cwd: string
      readonly approvalPolicy: string
      readonly approvalsReviewer: string
      readonly sandbox: keyof typeof sandboxTypes
    }
  ) => {
    hooks = asked.config.hooks
    const { cwd, approvalPolicy, approvalsReviewer, sandbox } = asked
    const type = foreign-- > 0 ? "dangerFullAccess" : sandboxTypes[sandbox]
    return { thread: { id }, model: "m", cwd, approvalPolicy, approvalsReviewer, sandbox: { type } }
  }
  const results: Record<string, (params: never) => unknown> = {
    [methodOf.start]: (params) => opened(numbered("T", ++threadCount), params),
    "thread/resume": (params: { readonly threadId: string }) => opened(params.threadId, params as never),
    "thread/fork": (params) => results[methodOf.start]!(params),
    "hooks/list": () => {
      const groups = hooks["PreToolUse"] as ReadonlyArray<{
        readonly hooks: ReadonlyArray<{ readonly command: string }>
      }>
      const state = hooks["state"] as Record<string, { readonly trusted_hash: string }>
      return {
        data: [
          {
            hooks: Object.entries(state).map(([key, { trusted_hash }]) => ({
              key,
              eventName: "preToolUse",
              command: groups[0]!.hooks[0]!.command,
              source: "sessionFlags",
              enabled: true,
              currentHash: trusted_hash,
              trustStatus: options.trustStatus ?? "trusted"
            }))
          }
        ]
      }
    },
    "thread/read": () => options.kept?.history,
    "thread/loaded/list": () => ({ data: [] }),
    "account/read": () => ({ account: null, requiresOpenaiAuth: true }),
    "turn/start": () => ({ turn: { id: numbered("U", ++turnCount) } }),
    [methodOf.list]: () => ({ data: (looks.shift() ?? []).map((processId) => ({ processId })) })
  }
  const rejections: Record<string, () => Effect.Effect<never, AppServerRejected | ThreadNotFound> | null> = {
    "turn/interrupt": () =>
      options.interrupt === "never"
        ? Effect.never
        : options.interrupt === undefined
          ? null
          : Effect.fail(
              new AppServerRejected({
                method: "turn/interrupt",
                code: -32600,
                detail: options.interrupt === "idle" ? "no active turn to interrupt" : "no"
              })
            ),
    "thread/resume": () =>
      options.forgetsThreads === true ? Effect.fail(new ThreadNotFound({ method: "thread/resume" })) : null
  }

  const makeServer = (generation: number): Server => {
    const queues: Server["queues"] = new Map()
    const server: Server = {
      queues,
      lost: null,
      connection: {
        generation,
        origin: options.origin ?? "spawned",
        pid: generation,
        runId: options.kept === undefined ? null : "r-1",
        mark: null,
        version: "0.169.0",
        lost: Effect.never,
        gone: Effect.never,
        retire: (reason) => Effect.sync(() => retired.push(reason)),
        thread: (threadId) =>
          Effect.gen(function* () {
            const queue = yield* Queue.unbounded<Incoming, AppServerLost | BorrowerShed>()
            queues.set(threadId, queue)
            if (server.lost) yield* Queue.fail(queue, server.lost)
            return queue
          }),
        request: (method, sent, schema, timeoutMs = 60_000) =>
          Effect.suspend((): Effect.Effect<typeof schema.Type, RequestFailure> => {
            if (server.lost) return Effect.fail(server.lost)
            if (silent)
              return Effect.andThen(
                Effect.sleep(timeoutMs),
                new AppServerRequestTimeout({ method, timeoutMs })
              )
            asked.push(method)
            params.set(method, sent)
            const rejected = rejections[method]?.() ?? null
            if (rejected) return rejected
            const result = results[method]?.(sent as never) ?? {}
            if (method === "turn/start") Queue.offerUnsafe(turns, method)
            const answer = Effect.orDie(Schema.decodeUnknownEffect(schema)(result as unknown))
            return options.opening && /^thread\/(start|resume|fork)$/.test(method)
              ? Effect.andThen(Deferred.await(options.opening), answer)
              : answer
          })
      }
    }
    return server
  }
  let server = makeServer(1)

  const rows = yield* Queue.unbounded<AuditRow>()
  const relay: Relay = {
    relayId: "R",
    generation: 1,
    recordPath: "/bridges/R",
    commands: { pre_tool_use: "the hook" },
    decide: () => Effect.die("not asked here"),
    approve: (call) =>
      Effect.suspend(() => {
        log.push(`approve ${call.callId}`)
        return options.approve === "fail"
          ? Effect.fail(new AuditUnavailable({ cause: "disk full" }))
          : Effect.as(options.gate ?? Effect.void, {
              decision: decision(options.approve ?? "allow"),
              fromHook: true
            })
      }),
    fence: (finished) =>
      Effect.suspend(() => {
        log.push(`fence [${[...finished].join(" ")}]`)
        return options.fenced === "fails"
          ? Effect.fail(new FenceNotRaised({ relayId: "R" }))
          : Effect.succeed(options.fenced ?? { decided: 0, inDoubt: 0 })
      }),
    incident: (callId) => Effect.sync(() => log.push(`incident ${callId}`)),
    isDecided: (callId) => Effect.succeed(!(options.undecided ?? []).includes(callId)),
    rows,
    inherit: (rows) => Effect.sync(() => log.push(`inherit [${rows.map(({ callId }) => callId).join(" ")}]`)),
    attachSession: (sessionId) => Effect.sync(() => log.push(`session ${sessionId}`))
  }
  const remembered: Array<ThreadRecord> = []
  const borrows: Array<BorrowRequest> = []
  const registered: Array<RelaySpec> = []
  const parts = Layer.mergeAll(
    Layer.mock(RelayRegistry, {
      register: (spec) =>
        Effect.acquireRelease(
          Effect.sync(() => {
            registered.push(spec)
            return relay
          }),
          () => Effect.sync(() => log.push("relay closed"))
        )
    }),
    Layer.mock(AppServerLease, {
      borrow: (request) =>
        Effect.acquireRelease(
          Effect.sync(() => {
            borrows.push(request)
            if (server.lost) server = makeServer(server.connection.generation + 1)
            return server.connection
          }),
          () => Effect.sync(() => log.push("given back"))
        )
    }),
    Layer.mock(InstanceMark, {}),
    layerEpoch({ mark: null }),
    Layer.mock(ThreadStore, {
      find: () => Effect.succeedNone,
      remember: (record) => Effect.sync(() => remembered.push(record))
    })
  )
  const ledger = new Map(options.kept?.left?.map((record) => [record.runId, record]))
  let leaving = false
  const keeping = Layer.mergeAll(
    Layer.succeed(TurnStore, {
      note: (record) => Effect.sync(() => void ledger.set(record.runId, record)),
      forget: (runId) => Effect.sync(() => void ledger.delete(runId)),
      all: Effect.sync(() => [...ledger.values()])
    }),
    Layer.mock(PtySupervisor, {
      reconciled: [],
      find: (ref) =>
        options.kept?.runs === false
          ? Effect.fail(new RunNotFound({ ref }))
          : Effect.succeed({ state: "Running" } as RunInfo)
    }),
    Layer.mock(AuditLog, { tail: () => Effect.succeed(options.kept?.rows ?? []) }),
    Layer.succeed(
      Handover,
      Effect.sync(() => leaving)
    )
  )
  const driver = Context.get(
    yield* Effect.orDie(
      Layer.build(
        options.kept === undefined
          ? layer.pipe(Layer.provide(parts))
          : layerKept.pipe(Layer.provide([parts, keeping]))
      )
    ),
    AgentDriver
  )
  return {
    asked,
    params,
    log,
    driver,
    turns: ledger,
    leave: () => {
      leaving = true
    },
    borrows,
    registered,
    retired,
    say: (message, thread = "T") => Queue.offer(server.queues.get(thread)!, message),
    remembered,
    rows,
    goesSilent: () => {
      silent = true
    },
    hangUp: Effect.suspend(() => {
      server.lost = lostAt(server.connection.generation)
      return Effect.forEach([...server.queues.values()], (queue) => Queue.fail(queue, server.lost!))
    }),
    turnStarted: Queue.take(turns)
  }
})

export const cwd = fs.realpathSync(os.tmpdir())
export const request: RunRequest = {
  prompt: "p",
  cwd,
  overrides: [],
  thread: { _tag: "start" },
  spawnedBy: null,
  onLost: "fail",
  startTimeoutMs: null
}

export const notify = (method: string, params: unknown): Incoming => ({
  _tag: "notification",
  method,
  params
})
export const turnEnded = (
  status: string,
  error: unknown = null,
  { threadId, id } = { threadId: "T", id: "U" }
) => notify("turn/completed", { threadId, turn: { id, status, error } })
export const completed = turnEnded("completed")
export const itemOf = (
  state: "started" | "completed",
  item: Readonly<Record<string, unknown>>,
  turnId = "U"
): Incoming => notify(`item/${state}`, { threadId: "T", turnId, item })

/** What is asked after a turn that ended by itself. */
export const cleanup = [
  "thread/backgroundTerminals/clean",
  "thread/backgroundTerminals/list",
  "thread/unsubscribe"
]

/** Runs a turn in a world to where it waits for messages. */
export const runIn = Effect.fnUntraced(function* (place: World, over: Partial<RunRequest> = {}) {
  const events: Array<AgentEvent> = []
  const arriving = yield* Queue.unbounded<AgentEvent>()
  const fiber = yield* place.driver.run({ ...request, ...over }).pipe(
    Stream.runForEach((event) => {
      events.push(event)
      return Queue.offer(arriving, event)
    }),
    Effect.forkChild
  )
  yield* place.turnStarted
  /** The next event of a kind. */
  const until = Effect.fnUntraced(function* (tag: AgentEvent["_tag"]) {
    while (true) {
      const event = yield* Queue.take(arriving)
      if (event._tag === tag) return event
    }
  })
  return { ...place, events, fiber, until }
})

/** The same in a world of its own. */
export const running = (options?: WorldOptions, over?: Partial<RunRequest>) =>
  Effect.flatMap(world(options), (place) => runIn(place, over))

export type Running = Effect.Success<ReturnType<typeof running>>

/** A server request, and the answer it gets. */
export const asks = Effect.fnUntraced(function* (place: Pick<World, "say">, method: string, params: unknown) {
  const answer = yield* Deferred.make<unknown>()
  yield* place.say({
    _tag: "request",
    method,
    params,
    respond: (result) => Effect.asVoid(Deferred.succeed(answer, result)),
    refuse: Effect.asVoid(Deferred.succeed(answer, "refused"))
  })
  return yield* Deferred.await(answer)
})

/** The run's end, once it has one. */
export const endOf = (place: Running) => Effect.map(Fiber.join(place.fiber), () => place.events.at(-1))

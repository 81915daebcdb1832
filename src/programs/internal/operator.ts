/** What the verbs of the command line do with a gateway: one connection, and its loss as one clear error. */
import * as Context from "effect/Context"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as CodexBinary from "../../layers/CodexBinary.ts"
import * as ControlClient from "../../layers/ControlClient.ts"
import * as Doctor from "../../layers/Doctor.ts"
import * as HookClients from "../../layers/HookClients.ts"
import * as InstanceMark from "../../layers/InstanceMark.ts"
import * as ProcessIdentity from "../../layers/ProcessIdentity.ts"
import type { AgentEvent, AgentRunError, RunRequest } from "../../services/AgentDriver.ts"
import * as Syscalls from "../../layers/Syscalls.ts"
import { type Check, failed, leaseChecks, passed, trialCheck, warned } from "../../services/Doctor.ts"
import type { Identity } from "../../services/ProcessIdentity.ts"
import { attachAgain, overGateways } from "./comeBack.ts"
import { ExitWith } from "./terminal.ts"
import { logging, settingsLayer } from "./surroundings.ts"

export const gateway = Layer.mergeAll(ProcessIdentity.layer, logging).pipe(Layer.provideMerge(settingsLayer))

/** A look into memory takes milliseconds; a gateway that takes this long is stopped or stuck. */
const answerTimeoutMs = 10_000

class GatewayUnresponsive extends Schema.TaggedError<GatewayUnresponsive>()("GatewayUnresponsive", {
  timeoutMs: Schema.Int
}) {
  override get message(): string {
    return `The gateway accepts connections but did not answer within ${this.timeoutMs / 1000} s. Is its process stopped? Look at its log.`
  }
}

/** One answer of the gateway, with a deadline. */
export const answered = <A, E, R>(question: Effect.Effect<A, E, R>) =>
  Effect.timeoutOrElse(question, {
    duration: answerTimeoutMs,
    orElse: () => Effect.fail(new GatewayUnresponsive({ timeoutMs: answerTimeoutMs }))
  })

class StopTimeout extends Schema.TaggedError<StopTimeout>()("StopTimeout", {
  pid: Schema.Int,
  timeoutMs: Schema.Int
}) {
  override get message(): string {
    return `The gateway (pid ${this.pid}) did not end within ${this.timeoutMs / 1000} s. Look at its log; Ctrl-C twice in its terminal forces it.`
  }
}

/** Runs with one connection. */
export const oneGateway = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.provide(effect, ControlClient.layer)

/** Shutdown has its own budgets; this one is above their sum. */
const stopTimeoutMs = 45_000
const stopPollMs = 20

export const askDown = (client: ControlClient.ControlClient["Service"]) =>
  client.Down().pipe(
    Stream.runHead,
    Effect.flatMap(
      Option.match({
        onNone: () => Effect.fail(new ControlClient.GatewayLost({})),
        onSome: Effect.succeed
      })
    )
  )

/** Asks the gateway to end and waits until its process, that one and no other, is gone. */
export const stopGateway = Effect.gen(function* () {
  const client = yield* ControlClient.ControlClient
  const identities = yield* ProcessIdentity.ProcessIdentity
  const { owner } = yield* answered(askDown(client))
  const startedAt = yield* Clock.currentTimeMillis
  const isGone = (identity: Identity) =>
    Effect.map(identities.verdict(identity), (verdict) => verdict === "dead")
  while (!(yield* isGone(owner))) {
    if ((yield* Clock.currentTimeMillis) - startedAt > stopTimeoutMs)
      return yield* new StopTimeout({ pid: owner.pid, timeoutMs: stopTimeoutMs })
    yield* Effect.sleep(stopPollMs)
  }
  return owner
})

/** Runs a turn and shows it; a turn that did not complete is exit code 1, already explained by its last line. */
export const runCodex = Effect.fnUntraced(function* <R>(
  options: {
    readonly config: ReadonlyArray<string>
    readonly resume: string
    readonly fork: string
    readonly parent: string | null
    readonly onLost: RunRequest["onLost"]
    readonly startTimeoutMs: number | null
    readonly prompt: string
  },
  show: (
    events: Stream.Stream<AgentEvent, AgentRunError | ControlClient.GatewayLost | ControlClient.NoGateway>
  ) => Effect.Effect<void, AgentRunError | ControlClient.GatewayLost | ControlClient.NoGateway, R>
) {
  const client = yield* ControlClient.ControlClient
  let completed = false
  const first = client.RunCodex({
    prompt: options.prompt,
    cwd: process.cwd(),
    overrides: options.config,
    thread: options.resume
      ? { _tag: "resume", threadId: options.resume }
      : options.fork
        ? { _tag: "fork", threadId: options.fork }
        : { _tag: "start" },
    spawnedBy: options.parent,
    onLost: options.onLost,
    startTimeoutMs: options.startTimeoutMs
  })
  const events = overGateways(first, attachAgain).pipe(
    Stream.tap((event) =>
      Effect.sync(() => {
        completed ||= event._tag === "ended" && event.status === "completed"
      })
    )
  )
  yield* show(events)
  if (!completed) return yield* Effect.fail(new ExitWith(1))
})

const clientsCheck = Effect.gen(function* () {
  const { best, found } = Context.get(yield* Layer.build(HookClients.layer), HookClients.HookClients)
  return passed("hook client", `${best.kind} (found: ${(yield* found).map(({ kind }) => kind).join(", ")})`)
}).pipe(
  Effect.scoped,
  Effect.catch((error) => Effect.succeed(failed("hook client", error.message, null)))
)

const askGateway = Effect.gen(function* () {
  const client = yield* ControlClient.ControlClient
  const { leases } = yield* answered(client.Status())
  const doctor = yield* Doctor.Doctor
  const checks = yield* client
    .OpenRelay({ provider: "codex", sessionId: "doctor", events: ["pre_tool_use"] })
    .pipe(
      Stream.take(1),
      Stream.mapEffect(({ commands }) =>
        Effect.map(doctor.tryHook(commands["pre_tool_use"] ?? "false"), trialCheck)
      ),
      Stream.runCollect
    )
  return [...checks, ...leaseChecks(leases)]
})

const gatewayChecks: Effect.Effect<
  ReadonlyArray<Check>,
  never,
  Doctor.Doctor | Layer.Success<typeof gateway>
> = oneGateway(askGateway).pipe(
  Effect.map((checks) => [passed("gateway", "answers"), ...checks]),
  Effect.catch((error) =>
    Effect.succeed([
      error._tag === "NoGateway"
        ? warned("gateway", "none is running, so no hook was tried", "start one with `holdfast up`")
        : failed("gateway", error.message, null)
    ])
  )
)

const doctorLayer = Doctor.layer.pipe(
  Layer.provide(Layer.mergeAll(CodexBinary.layer, InstanceMark.layer, Syscalls.layer))
)

export const runDoctor = Effect.gen(function* () {
  const local = yield* (yield* Doctor.Doctor).checks
  return [...local, yield* clientsCheck, ...(yield* gatewayChecks)]
}).pipe(Effect.provide(doctorLayer))

/** cli: the operator's command. Parses, asks the gateway over its socket, prints, and turns the outcome into an exit code. */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Stream from "effect/Stream"
import * as Argument from "effect/cli/Argument"
import * as CliOutput from "effect/cli/CliOutput"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import { ControlClient } from "../layers/ControlClient.ts"
import { directionTable } from "../services/HookEvent.ts"
import { hookEventNames } from "../services/HookWire.ts"
import * as Report from "../services/Report.ts"
import { separated } from "../services/RunCommand.ts"
import { Settings, version } from "../services/Settings.ts"
import { renderTree } from "../services/SupervisionTree.ts"
import { parsePin, type TlsPin } from "../services/TlsPin.ts"
import { follow, Json, show } from "./internal/answers.ts"
import { claude } from "./internal/claudeVerb.ts"
import { approvals } from "./internal/approvalVerbs.ts"
import { audit } from "./internal/auditVerbs.ts"
import { parseDuration } from "./internal/duration.ts"
import { answered, gateway, oneGateway, runCodex, runDoctor, stopGateway } from "./internal/operator.ts"
import { node, nodes } from "./internal/nodeVerbs.ts"
import { reap } from "./internal/reap.ts"
import { runVerbs } from "./internal/runVerbs.ts"
import { presenter, print, teardown } from "./internal/terminal.ts"
import { handOver } from "./internal/handOver.ts"

const up = Command.make("up", {}, () => handOver("gateway")).pipe(
  Command.withDescription("Start the gateway in the foreground")
)
const demo = Command.make("demo", {}, () => handOver("demo")).pipe(
  Command.withDescription("Watch one governed Codex turn, from start to nothing left")
)
const down = Command.make("down", {}, () =>
  oneGateway(
    Effect.gen(function* () {
      const owner = yield* stopGateway
      yield* show({ stopped: owner.pid }, ({ stopped }) => `stopped the gateway (pid ${stopped})`)
    })
  )
).pipe(Command.withDescription("End the gateway and everything it owns"))

const status = Command.make(
  "status",
  {
    tree: Flag.Boolean("tree").pipe(
      Flag.withDefault(false),
      Flag.withDescription("Every actor: state, age, restarts")
    )
  },
  ({ tree }) =>
    oneGateway(
      Effect.gen(function* () {
        const client = yield* ControlClient
        if (tree) return yield* show(yield* answered(client.Tree()), (nodes) => renderTree("gateway", nodes))
        yield* show(yield* answered(client.Status()), Report.status)
      })
    )
).pipe(Command.withDescription("What the gateway is and owns"))

const relaysOpen = Command.make(
  "open",
  {
    provider: Flag.Literals("provider", ["codex", "claude"]),
    session: Flag.String("session").pipe(
      Flag.withDefault(""),
      Flag.withDescription("The agent's session, shown in lists")
    )
  },
  ({ provider, session }) =>
    oneGateway(
      Effect.gen(function* () {
        const client = yield* ControlClient
        const opened = client.OpenRelay({ provider, sessionId: session || null, events: hookEventNames })
        yield* Stream.runForEach(opened, (relay) => print(JSON.stringify(relay)))
      })
    )
).pipe(
  Command.withDescription(
    "Hold a relay until interrupted; prints one JSON line with the hook command per event"
  )
)

const relays = Command.make("relays", {}, () =>
  oneGateway(
    Effect.gen(function* () {
      const client = yield* ControlClient
      const { startedAt, upMs } = yield* answered(client.Status())
      yield* show(yield* answered(client.Relays()), (all) => Report.relays(all, startedAt + upMs))
    })
  )
).pipe(
  Command.withDescription("The open relays, from agents' hooks to the gateway"),
  Command.withSubcommands([relaysOpen])
)

const leasesReset = Command.make("reset", {}, () =>
  oneGateway(
    Effect.gen(function* () {
      const reset = yield* answered((yield* ControlClient).ResetLeases())
      yield* show(reset, ({ closed }) => Report.closedCircuits(closed))
    })
  )
).pipe(Command.withDescription("Close open circuits, so that the next run starts an app-server at once"))

const leases = Command.make("leases", {}, () =>
  oneGateway(
    Effect.gen(function* () {
      const client = yield* ControlClient
      const { startedAt, upMs } = yield* answered(client.Status())
      yield* show(yield* answered(client.Leases()), (all) => Report.leases(all, startedAt + upMs))
    })
  )
).pipe(
  Command.withDescription("The shared app-server: who borrows it, why the last one was retired"),
  Command.withSubcommands([leasesReset])
)

/** What a run's request takes. */
const longestStartMs = 3_600_000

const codex = Command.make(
  "codex",
  {
    config: Flag.String("config").pipe(
      Flag.withAlias("c"),
      Flag.between(0, 64),
      Flag.withDescription("KEY=VALUE of Codex's configuration, for this thread only (repeatable)")
    ),
    resume: Flag.String("resume").pipe(Flag.withDefault(""), Flag.withDescription("Go on with this thread")),
    fork: Flag.String("fork").pipe(
      Flag.withDefault(""),
      Flag.withDescription("Go on with a copy of this thread")
    ),
    parent: Flag.String("parent").pipe(
      Flag.filter(
        (run) => run !== "",
        () => "the id of an active run"
      ),
      Flag.optional,
      Flag.withDescription("The run that asked for this one: a helper, on the same app-server")
    ),
    onLost: Flag.Literals("on-lost", ["fail", "resume"]).pipe(
      Flag.withDefault("fail"),
      Flag.withDescription("What follows when the app-server is lost: fail, or go on once on the next one")
    ),
    startTimeout: Flag.String("start-timeout").pipe(
      Flag.filterMap(parseDuration(longestStartMs), () => "a duration like 500ms, 10s or 2m, from 1ms to 1h"),
      Flag.optional,
      Flag.withDescription("How long to wait for the app-server, like 500ms, 10s, 2m")
    ),
    prompt: Argument.String("prompt")
  },
  ({ parent, startTimeout, ...options }) =>
    oneGateway(
      runCodex(
        { ...options, parent: Option.getOrNull(parent), startTimeoutMs: Option.getOrNull(startTimeout) },
        (stream) => follow(stream, Report.agentEvent)
      )
    )
).pipe(Command.withDescription("Run one governed Codex turn on the shared app-server"))

/** Each brings along what nothing else needs. */
const checksFor = Effect.fnUntraced(function* (asked: {
  readonly guard: boolean
  readonly node: string | null
  readonly pins: ReadonlyArray<TlsPin>
  readonly proxy: string | null
}) {
  if (asked.node !== null) {
    const { checksOfNode } = yield* Effect.promise(() => import("./internal/nodeCheck.ts"))
    return yield* checksOfNode({ ...asked, url: asked.node })
  }
  if (!asked.guard) return yield* runDoctor
  const { guardChecks } = yield* Effect.promise(() => import("./internal/guardCheck.ts"))
  return yield* guardChecks
})

const doctor = Command.make(
  "doctor",
  {
    directions: Flag.Boolean("directions").pipe(
      Flag.withDefault(false),
      Flag.withDescription("Only: where each event falls, for each cause, when nobody can decide")
    ),
    guard: Flag.Boolean("guard").pipe(
      Flag.withDefault(false),
      Flag.withDescription("Only: have each agent call what is always refused, and see that it is")
    ),
    node: Flag.String("node").pipe(
      Flag.optional,
      Flag.withDescription("Only: why this machine cannot be a node of the gateway at wss://HOST:PORT/nodes")
    ),
    pin: Flag.String("pin").pipe(
      Flag.filterMap(
        (text) => Result.getSuccess(parsePin(text)),
        () =>
          "sha256:... of a certificate or spki-sha256:... of its key, as `holdfast nodes pair` prints them"
      ),
      Flag.between(0, 16),
      Flag.withDescription("With --node: a pin of that gateway, instead of what is kept (repeatable)")
    ),
    proxy: Flag.String("proxy").pipe(
      Flag.optional,
      Flag.withDescription("With --node: http://HOST:PORT of a proxy, instead of what is kept")
    )
  },
  Effect.fnUntraced(function* ({ directions, guard, node, pin, proxy }) {
    if (directions) return yield* show(directionTable((yield* Settings).directions), Report.directions)
    const checks = yield* checksFor({
      guard,
      node: Option.getOrNull(node),
      pins: pin,
      proxy: Option.getOrNull(proxy)
    })
    yield* show(checks, Report.checks)
    if (checks.some((check) => check.status === "fail")) return yield* Effect.sync(() => process.exit(1))
  })
).pipe(Command.withDescription("Check this machine, and send one hook the whole way round"))

const holdfast = Command.make("holdfast").pipe(
  Command.withDescription("Owns what coding agents start; decides every tool call before it runs"),
  Command.withSubcommands([
    up,
    down,
    status,
    ...runVerbs,
    reap,
    relays,
    leases,
    approvals,
    audit,
    codex,
    claude,
    nodes,
    node,
    doctor,
    demo
  ]),
  Command.withGlobalFlags([Json])
)

Command.runWith(holdfast, { version })(separated(process.argv.slice(2))).pipe(
  Effect.provide(Layer.mergeAll(gateway, NodeServices.layer, Layer.succeed(CliOutput.Presenter, presenter))),
  NodeRuntime.runMain({ disableErrorReporting: true, teardown })
)

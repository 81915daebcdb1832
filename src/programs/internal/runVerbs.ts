/** The verbs about runs: what each takes, and what it asks. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as Argument from "effect/cli/Argument"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as path from "node:path"
import { ControlClient } from "../../layers/ControlClient.ts"
import { defaultDetachKeys, parseDetachKeys } from "../../services/Attachment.ts"
import { exitCodeOf, type RunInfo } from "../../services/PtySupervisor.ts"
import { runDefaults, type RunSpec } from "../../services/Run.ts"
import { commandOf, longestMs, type RunOptions } from "../../services/RunCommand.ts"
import { AttachEvent, isOver, type Typed } from "../../services/RunControl.ts"
import * as RunReport from "../../services/RunReport.ts"
import { defaultSize, encodeKeys } from "../../services/Screen.ts"
import { Json, show } from "./answers.ts"
import { isTerminal, windowSize, writeOut } from "./device.ts"
import { parseDuration } from "./duration.ts"
import { answered, oneGateway } from "./operator.ts"
import { goOn, throughUpgrades } from "./reconnect.ts"
import { attachTo, foregroundOnTerminal } from "./runAttach.ts"
import { foregroundOnPipes, printLog, runOver, runUntil } from "./runFollow.ts"
import { complain, exitCodes, ExitWith, print } from "./terminal.ts"

const length = (name: string, description: string) =>
  Flag.String(name).pipe(
    Flag.filterMap(
      parseDuration(longestMs),
      () => "a duration like 500ms, 10s, 2m or 1h, from 1ms to a year"
    ),
    Flag.optional,
    Flag.withDescription(description)
  )

/** Here nothing at all is a length too. */
const graceOrNone = (text: string): Option.Option<number> =>
  /^0(?:ms|s|m|h)?$/.test(text) ? Option.some(0) : parseDuration(longestMs)(text)

const word = (name: string, description: string) =>
  Flag.String(name).pipe(Flag.optional, Flag.withDescription(description))

const onOff = (name: string, description: string) =>
  Flag.Boolean(name).pipe(Flag.withDefault(false), Flag.withDescription(description))

const detachKeys = Flag.String("detach-keys").pipe(
  Flag.withDefault(defaultDetachKeys),
  Flag.filterMap(
    (text) => Option.map(Result.getSuccess(parseDetachKeys(text)), (keys) => ({ keys })),
    () => "keys by name, like 'C-p C-q' or 'ctrl-a,d', or none"
  ),
  Flag.withDescription(`What leaves the run going on: ${defaultDetachKeys}, or others, or none`)
)

const oneRun = Argument.String("run").pipe(
  Argument.withDescription("A run's name, id, or the beginning of its id")
)
const someRuns = oneRun.pipe(Argument.atLeast(1))

const find = (ref: string) => Effect.flatMap(ControlClient, (client) => answered(client.FindRun({ ref })))

/** For verbs that go on from one gateway to the next. */
const findLasting = (ref: string) => throughUpgrades((client) => answered(client.FindRun({ ref })))

/** Another machine, and there the home directory where no other one was named. */
interface Place {
  readonly node: string | null
  readonly home: boolean
}

const start = Effect.fnUntraced(function* (options: RunOptions, place: Place) {
  // What a shell here has says nothing about another machine.
  const caller = place.node === null ? process.env : {}
  const { spec, variables } = yield* Effect.fromResult(commandOf(options, caller))
  return yield* oneGateway(
    Effect.flatMap(ControlClient, (client) => {
      const asked = client.StartRun({ spec, variables, ...place })
      // The gateway waits longer for a machine that is on its way back.
      return place.node === null ? answered(asked) : asked
    })
  )
})

const notStarted = (run: RunInfo): boolean => run.reason?._tag === "spawn-error"

/** It never began: what it would have printed is not waited for. */
const orNotStarted = (run: RunInfo) =>
  Effect.suspend(() => {
    if (!isOver(run) || !notStarted(run)) return Effect.void
    complain(RunReport.endWords(run))
    return Effect.fail(new ExitWith(exitCodeOf(run)))
  })

const run = Command.make(
  "run",
  {
    detach: Flag.Boolean("detach").pipe(
      Flag.withAlias("d"),
      Flag.withDefault(false),
      Flag.withDescription("In the background: print the run's id once its process exists")
    ),
    name: word("name", "How to call it; unique among live runs"),
    scope: word("scope", "A key that at most one live run has"),
    replace: onOff("replace", "Stop the live run of that scope first, and start when it has ended"),
    pty: Flag.Boolean("pty").pipe(
      Flag.optional,
      Flag.withDescription(
        "On a terminal of its own; without it on pipes (default: where ours is a terminal, and with -d)"
      )
    ),
    timeout: length("timeout", "End it after so long"),
    startTimeout: length("start-timeout", "End it when it has printed nothing by then"),
    idleTimeout: length("idle-timeout", "Warn after half of it without output, and end it after all of it"),
    killGrace: length(
      "kill-grace",
      `Between asking it to end and killing it (${runDefaults.killGraceMs / 1000}s)`
    ),
    onGatewayLoss: Flag.Literals("on-gateway-loss", ["adopt", "kill"]).pipe(
      Flag.withDefault(runDefaults.onGatewayLoss),
      Flag.withDescription("Without a gateway: wait for the next one, or end")
    ),
    adoptGrace: length(
      "adopt-grace",
      `How long to wait for the next gateway (${runDefaults.adoptGraceMs / 1000}s)`
    ),
    restart: Flag.Literals("restart", ["permanent", "transient", "temporary"]).pipe(
      Flag.withDefault(runDefaults.restart as RunSpec["restart"]),
      Flag.withDescription("Start it again: always, after a failure, or never")
    ),
    cwd: word("cwd", "Its working directory (this one; on a node its home directory)"),
    node: word("node", "On this machine instead of here (holdfast nodes list)"),
    env: Flag.String("env").pipe(
      Flag.withAlias("e"),
      Flag.between(0, 1024),
      Flag.withDescription("NAME=VALUE for it, or NAME for the value it has here (repeatable)")
    ),
    detachKeys,
    words: Argument.String("command").pipe(
      Argument.variadic(),
      Argument.withDescription("The command and its arguments, which are its own")
    )
  },
  (options) =>
    Effect.gen(function* () {
      const json = yield* Json
      const onTerminal = isTerminal() && !json
      const pty = Option.getOrElse(options.pty, () => options.detach || onTerminal)
      const size = process.stdout.isTTY ? windowSize() : defaultSize
      const asked = {
        words: options.words,
        name: Option.getOrNull(options.name),
        scope: Option.getOrNull(options.scope),
        replace: options.replace,
        pty: pty ? size : null,
        timeoutMs: Option.getOrNull(options.timeout),
        startTimeoutMs: Option.getOrNull(options.startTimeout),
        idleTimeoutMs: Option.getOrNull(options.idleTimeout),
        killGraceMs: Option.getOrNull(options.killGrace),
        onGatewayLoss: options.onGatewayLoss,
        adoptGraceMs: Option.getOrNull(options.adoptGrace),
        restart: options.restart,
        cwd: path.resolve(Option.getOrElse(options.cwd, () => process.cwd())),
        env: options.env
      }
      const node = Option.getOrNull(options.node)
      const place = { node, home: node !== null && Option.isNone(options.cwd) }
      if (options.detach) {
        const { id } = yield* start(asked, place)
        const begun = yield* runUntil(id, ({ leader }) => leader !== null)
        yield* orNotStarted(begun)
        return yield* show(begun, ({ id }) => id)
      }
      const known = yield* start(asked, place)
      if (onTerminal && pty) return yield* foregroundOnTerminal(known, options.detachKeys.keys)
      return yield* foregroundOnPipes(known, json)
    })
).pipe(
  Command.withDescription(
    "Start a command that cannot be orphaned; in the foreground, or with -d in the background"
  ),
  Command.withExamples([
    { command: "holdfast run -- npm test", description: "In the foreground; exits as it does" },
    { command: "holdfast run -d --name agent -- codex", description: "In the background, on a terminal" },
    {
      command: "holdfast run -d --scope dev --replace --restart permanent -- npm run dev",
      description: "At most one of its kind"
    }
  ])
)

const ps = Command.make(
  "ps",
  {
    all: Flag.Boolean("all").pipe(
      Flag.withAlias("a"),
      Flag.withDefault(false),
      Flag.withDescription("Also those that ended, and how")
    )
  },
  ({ all }) =>
    oneGateway(
      Effect.gen(function* () {
        const client = yield* ControlClient
        yield* show(yield* answered(client.ListRuns({ ended: all })), (list) => RunReport.runs(list, all))
      })
    )
).pipe(Command.withDescription("The live runs, and the governed turns under way"))

const logs = Command.make(
  "logs",
  {
    follow: Flag.Boolean("follow").pipe(
      Flag.withAlias("f"),
      Flag.withDefault(false),
      Flag.withDescription("Go on until the run is over")
    ),
    tail: Flag.Int("tail").pipe(
      Flag.withAlias("n"),
      Flag.filter(
        (lines) => lines >= 0,
        () => "a number of lines"
      ),
      Flag.optional,
      Flag.withDescription("Only its last lines")
    ),
    run: oneRun
  },
  ({ follow, tail, run }) =>
    Effect.gen(function* () {
      const json = yield* Json
      const found = yield* findLasting(run)
      yield* printLog(found, { follow, tail: Option.getOrNull(tail), json })
    })
).pipe(Command.withDescription("What a run has printed, byte for byte"))

class NotATerminal extends Schema.TaggedError<NotATerminal>()("NotATerminal", {}) {
  override get message(): string {
    return "attach needs a terminal at its input and output. Use `holdfast logs -f` and `holdfast send`, or attach --json."
  }
}

const encodeEvent = Schema.encodeSync(AttachEvent)

const attach = Command.make(
  "attach",
  { readOnly: onOff("read-only", "Only look on, and leave its size alone"), detachKeys, run: oneRun },
  ({ readOnly, detachKeys, run }) =>
    Effect.gen(function* () {
      const json = yield* Json
      if (!json && !isTerminal()) return yield* new NotATerminal()
      const found = yield* findLasting(run)
      if (!json) return yield* attachTo(found, { readOnly, detach: detachKeys.keys })
      const ask = { runId: found.id, readOnly: true, size: null, cursor: null }
      yield* goOn((client) =>
        Stream.runForEach(client.AttachRun(ask), (event) =>
          writeOut(Buffer.from(`${JSON.stringify(encodeEvent(event))}\n`))
        )
      )
    })
).pipe(Command.withDescription("Show a run's terminal as it is and goes on, and type into it"))

class NothingToSend extends Schema.TaggedError<NothingToSend>()("NothingToSend", {}) {
  override get message(): string {
    return "There is nothing to send. Give a text, --paste TEXT, or --keys 'C-c Enter'."
  }
}

const send = Command.make(
  "send",
  {
    keys: word("keys", "Keys by name, like 'C-c Enter' or 'Up Up F5'; sent last"),
    paste: word("paste", "A text as a paste, which the program can tell from typing"),
    run: oneRun,
    text: Argument.String("text").pipe(
      Argument.optional,
      Argument.withDescription("Sent as it is, without Enter")
    )
  },
  ({ keys, paste, run, text }) =>
    oneGateway(
      Effect.gen(function* () {
        const names = Option.map(keys, (names) => names.split(/\s+/).filter((name) => name !== ""))
        const typed: ReadonlyArray<Typed> = [
          ...Option.toArray(Option.map(text, (text) => ({ _tag: "text", text }) as const)),
          ...Option.toArray(Option.map(paste, (text) => ({ _tag: "paste", text }) as const)),
          ...Option.toArray(Option.map(names, (keys) => ({ _tag: "keys", keys }) as const))
        ]
        if (typed.every((one) => (one._tag === "keys" ? one.keys.length === 0 : one.text === "")))
          return yield* new NothingToSend()
        if (Option.isSome(names))
          yield* Effect.fromResult(encodeKeys(names.value, { applicationCursor: false }))
        const { id } = yield* find(run)
        yield* answered((yield* ControlClient).TypeRun({ runId: id, typed }))
        if (yield* Json) yield* print(JSON.stringify({ sent: id }))
      })
    )
).pipe(Command.withDescription("Type into a run: a text, a paste, keys, in this order"))

class RunStillGoing extends Schema.TaggedError<RunStillGoing>()("RunStillGoing", {
  runId: Schema.String,
  timeoutMs: Schema.Int
}) {
  override get message(): string {
    return `The run ${this.runId} goes on after ${Duration.format(Duration.millis(this.timeoutMs))}.`
  }
}

const wait = Command.make(
  "wait",
  { timeout: length("timeout", "How long to wait; 124 when it goes on then"), run: oneRun },
  ({ timeout, run }) =>
    Effect.gen(function* () {
      const { id } = yield* findLasting(run)
      const last = yield* Option.match(timeout, {
        onNone: () => runOver(id),
        onSome: (timeoutMs) =>
          Effect.timeoutOrElse(runOver(id), {
            duration: timeoutMs,
            orElse: () => Effect.fail(new RunStillGoing({ runId: id, timeoutMs }))
          })
      })
      yield* show(last, RunReport.ended)
      return yield* Effect.fail(new ExitWith(exitCodeOf(last)))
    })
).pipe(Command.withDescription("Wait until a run is over, and exit as it did"))

/** Over a run's own grace: the sweep of what it left, and a gateway that is replaced meanwhile. */
const endMarginMs = 60_000
const endedAtOnce = 16

class RunEndTimeout extends Schema.TaggedError<RunEndTimeout>()("RunEndTimeout", {
  runId: Schema.String,
  timeoutMs: Schema.Int
}) {
  override get message(): string {
    return `The run ${this.runId} has not ended within ${Math.round(this.timeoutMs / 1000)} s. Look at \`holdfast ps\` and the gateway's log.`
  }
}

/** Every run is known before the first one is touched. */
const endAll = Effect.fnUntraced(function* (refs: ReadonlyArray<string>, graceMs: number | null) {
  const found = yield* throughUpgrades((client) =>
    Effect.forEach(refs, (ref) => answered(client.FindRun({ ref })))
  )
  const distinct = [...new Map(found.map((run) => [run.id, run])).values()]
  const ended = yield* Effect.forEach(
    distinct,
    ({ id, spec }) => {
      const timeoutMs = (graceMs ?? spec.killGraceMs) + endMarginMs
      return goOn((client) => client.EndRun({ runId: id, graceMs })).pipe(
        Effect.timeoutOrElse({
          duration: timeoutMs,
          orElse: () => Effect.fail(new RunEndTimeout({ runId: id, timeoutMs }))
        })
      )
    },
    { concurrency: endedAtOnce }
  )
  yield* show(ended, (all) => all.map(RunReport.ended).join("\n"))
  if (ended.some(({ extinction }) => (extinction?.survivors.length ?? 0) > 0))
    return yield* Effect.fail(new ExitWith(exitCodes.failed))
})

const stop = Command.make(
  "stop",
  {
    grace: Flag.String("grace").pipe(
      Flag.filterMap(graceOrNone, () => "a duration like 0, 500ms, 10s, 2m or 1h"),
      Flag.optional,
      Flag.withDescription("Between asking and killing (each run's own)")
    ),
    runs: someRuns
  },
  ({ grace, runs }) => endAll(runs, Option.getOrNull(grace))
).pipe(Command.withDescription("End runs: ask, wait, kill, until nothing of them is left"))

const kill = Command.make("kill", { runs: someRuns }, ({ runs }) => endAll(runs, 0)).pipe(
  Command.withDescription("End runs at once")
)

const rm = Command.make("rm", { runs: someRuns }, ({ runs }) =>
  oneGateway(
    Effect.gen(function* () {
      const client = yield* ControlClient
      const found = yield* Effect.forEach(runs, find)
      const ids = [...new Set(found.map(({ id }) => id))]
      yield* Effect.forEach(ids, (runId) => answered(client.RemoveRun({ runId })))
      yield* show({ removed: ids }, ({ removed }) => removed.join("\n"))
    })
  )
).pipe(Command.withDescription("Forget runs that ended, with what they printed"))

export const runVerbs = [run, ps, logs, attach, send, wait, stop, kill, rm] as const

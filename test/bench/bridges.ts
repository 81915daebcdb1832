/**
 * The real bridge store and relay registry in a process of their own, beside thousands of files of others: how long they
 * take and how long they hold the event loop, with a probe that looks at the loop's every turn.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as crypto from "node:crypto"
import * as fs from "node:fs"
import * as path from "node:path"
import * as BridgeStore from "../../src/layers/BridgeStore.ts"
import * as Policy from "../../src/layers/Policy.ts"
import * as ProcessIdentity from "../../src/layers/ProcessIdentity.ts"
import * as RelayRegistry from "../../src/layers/RelayRegistry.ts"
import * as SupervisionTree from "../../src/layers/SupervisionTree.ts"
import { Approvals } from "../../src/services/Approvals.ts"
import { AuditLog } from "../../src/services/AuditLog.ts"
import { BridgeRecordText, recordName } from "../../src/services/BridgeStore.ts"
import { HookClients } from "../../src/services/HookClients.ts"
import type { Identity } from "../../src/services/ProcessIdentity.ts"
import { Settings } from "../../src/services/Settings.ts"
import * as FakeEpoch from "../../src/testing/Epoch.ts"
import { serve } from "./serve.ts"

const textOf = Schema.encodeSync(BridgeRecordText)

const temporaryIn = (base: string) =>
  Effect.acquireRelease(
    Effect.sync(() => fs.mkdtempSync(path.join(base, "hf-bench-"))),
    (directory) => Effect.sync(() => fs.rmSync(directory, { recursive: true, force: true }))
  )

/** Records of another gateway, an hour from expiry. */
const fill = (directory: string, files: number, ownerOf: (index: number) => Identity): void => {
  fs.mkdirSync(directory, { recursive: true, mode: 0o700 })
  const now = Date.now()
  for (let index = 0; index < files; index++) {
    const relayId = `codex-other-${index}`
    const text = textOf({
      version: 1,
      relayId,
      generation: 1,
      owner: { epoch: "01J0000000000000000000000B", identity: ownerOf(index) },
      socketPath: "/run/user/1000/holdfast/hooks-00000000000B.sock",
      token: crypto.randomBytes(32).toString("base64url"),
      publishedAt: now,
      expiresAt: now + 3_600_000
    })
    fs.writeFileSync(path.join(directory, recordName(crypto.hash("sha256", relayId))), text, { mode: 0o600 })
  }
  // What the filling left to collect is not the measured one's.
  globalThis.gc?.()
}

interface Stall {
  /** The longest time between two turns of the event loop. */
  readonly all: number
  /** The same less what this thread waited for a CPU that others had. */
  readonly own: number
}

const schedstat = fs.openSync("/proc/self/schedstat", "r")
const line = Buffer.alloc(128)

/** Milliseconds this thread was ready to run and did not: the second number, in nanoseconds. */
const waited = (): number =>
  Number(line.toString("latin1", 0, fs.readSync(schedstat, line, 0, line.length, 0)).split(" ")[1]) / 1e6

const watchLoop = (): (() => Stall) => {
  let [last, lastWaited, all, own] = [performance.now(), waited(), 0, 0]
  let watching = true
  const look = (): void => {
    const [now, nowWaited] = [performance.now(), waited()]
    all = Math.max(all, now - last)
    own = Math.max(own, now - last - (nowWaited - lastWaited))
    last = now
    lastWaited = nowWaited
    if (watching) setImmediate(look)
  }
  setImmediate(look)
  return () => {
    watching = false
    look()
    return { all, own }
  }
}

const idle = (ms: number): Promise<Stall> => {
  const longest = watchLoop()
  return new Promise((resolve) => setTimeout(() => resolve(longest()), ms))
}

/** The same files handled without any care for the event loop. */
const barePrune = (directory: string): number => {
  const from = performance.now()
  for (const name of fs.readdirSync(directory)) {
    const file = path.join(directory, name)
    fs.readFileSync(file, "utf8")
    fs.unlinkSync(file)
  }
  return performance.now() - from
}

const settingsIn = (directory: string) =>
  Layer.effect(
    Settings,
    Effect.map(Settings, (settings) => ({
      ...settings,
      paths: { ...settings.paths, runtime: directory, bridges: path.join(directory, "bridges") },
      hook: { ...settings.hook, lateGraceMs: 0 }
    }))
  )

const epochLayer = Layer.unwrap(
  Effect.map(ProcessIdentity.ProcessIdentity, ({ self }) => FakeEpoch.layerOf({ owner: self }))
)

const storeIn = (directory: string) =>
  Layer.fresh(BridgeStore.layer).pipe(Layer.provide(settingsIn(directory)), Layer.provide(epochLayer))

const perl = { kind: "perl", argv: ["/usr/bin/perl", "/dist/hookRelay.pl"] } as const

const registryIn = (directory: string) =>
  Layer.fresh(RelayRegistry.layer).pipe(
    Layer.provide([
      storeIn(directory),
      Policy.layer,
      Layer.mock(Approvals, {}),
      SupervisionTree.layer,
      epochLayer,
      Layer.succeed(HookClients, { found: Effect.succeed([perl]), best: perl }),
      Layer.mock(AuditLog, {
        append: () => Effect.die("nothing is decided here"),
        tail: () => Effect.succeed([]),
        live: Stream.empty
      })
    ]),
    Layer.provide(settingsIn(directory))
  )

const run = <A, E>(effect: Effect.Effect<A, E, Scope.Scope | ProcessIdentity.ProcessIdentity>): Promise<A> =>
  Effect.runPromise(Effect.scoped(Effect.provide(effect, ProcessIdentity.layer)))

const handlers = {
  /** `files` records in a directory below `base`, each of another dead owner, which is the most a prune can have to ask. */
  prune: ({
    base,
    files,
    rounds,
    warmup
  }: {
    readonly base: string
    readonly files: number
    readonly rounds: number
    readonly warmup: number
  }) =>
    run(
      Effect.gen(function* () {
        const root = yield* temporaryIn(base)
        const { self } = yield* ProcessIdentity.ProcessIdentity
        const store = Context.get(yield* Layer.build(storeIn(root)), BridgeStore.BridgeStore)
        const directory = path.join(root, "bridges")
        const measured = {
          durations: [] as Array<number>,
          stalls: [] as Array<Stall>,
          bare: [] as Array<number>,
          idle: [] as Array<Stall>
        }
        // No process has it: its start token is another's, or the pid is free.
        const dead = (index: number): Identity => ({ ...self, pid: 100_000 + index, startToken: "1" })
        for (let round = -warmup; round < rounds; round++) {
          fill(directory, files, dead)
          const longest = watchLoop()
          const from = performance.now()
          const { removed } = yield* store.prune
          const duration = performance.now() - from
          const stall = longest()
          if (removed !== files) return yield* Effect.die(`${removed} of ${files} records were removed`)
          const still = yield* Effect.promise(() => idle(duration))
          fill(directory, files, dead)
          const bare = barePrune(directory)
          if (round < 0) continue
          measured.durations.push(duration)
          measured.stalls.push(stall)
          measured.bare.push(bare)
          measured.idle.push(still)
        }
        return measured
      })
    ),

  /** Registrations beside `files` records of a gateway that lives, and beside none; each until it may be used. */
  register: ({
    base,
    files,
    rounds
  }: {
    readonly base: string
    readonly files: number
    readonly rounds: number
  }) =>
    run(
      Effect.gen(function* () {
        const [crowdedRoot, aloneRoot] = [yield* temporaryIn(base), yield* temporaryIn(base)]
        const { self } = yield* ProcessIdentity.ProcessIdentity
        fill(path.join(crowdedRoot, "bridges"), files, () => self)
        const registries = {
          crowded: Context.get(yield* Layer.build(registryIn(crowdedRoot)), RelayRegistry.RelayRegistry),
          alone: Context.get(yield* Layer.build(registryIn(aloneRoot)), RelayRegistry.RelayRegistry)
        }
        const measured = { crowded: [] as Array<number>, alone: [] as Array<number> }
        const warmup = 20
        for (let round = 0; round < warmup + rounds; round++) {
          const names = ["crowded", "alone"] as const
          for (const name of round % 2 === 0 ? names : names.toReversed()) {
            const scope = yield* Scope.make()
            const from = performance.now()
            yield* registries[name]
              .register({
                provider: "codex",
                runId: `run-${round}`,
                sessionId: null,
                allowedEvents: ["pre_tool_use"]
              })
              .pipe(Scope.provide(scope))
            const took = performance.now() - from
            if (round >= warmup) measured[name].push(took)
            yield* Scope.close(scope, Exit.void)
          }
        }
        const left = fs.readdirSync(path.join(crowdedRoot, "bridges")).length
        if (left < files) return yield* Effect.die(`${files - left} records of others are gone`)
        return measured
      })
    )
}

export type Bridges = typeof handlers

serve(handlers)

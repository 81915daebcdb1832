/**
 * Approvals: the live ones on the state database in memory, answered by a test; or a person who is asked and always says the
 * same; and calls to ask about.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import * as Fiber from "effect/Fiber"
import { layer as layerLive } from "../layers/Approvals.ts"
import {
  type Approval,
  Approvals,
  type AskRequest,
  type CallFacts,
  type Outcome
} from "../services/Approvals.ts"
import { layer as layerDatabase } from "./Database.ts"

/** Everybody is told the same at once, and what is asked is noted. */
export const layerOf = (outcome: Outcome, asked: Array<AskRequest> = []): Layer.Layer<Approvals> =>
  Layer.mock(Approvals, {
    ask: (request) =>
      Effect.sync(() => {
        asked.push(request)
        return outcome
      })
  })

/** Nobody may be asked in this test. */
export const layerNobody: Layer.Layer<Approvals> = Layer.mock(Approvals, {
  ask: () => Effect.die("nobody is asked here")
})

/** The live ones: an ask waits until the test answers it, or its time is over. */
export const layer = layerLive.pipe(Layer.provideMerge(layerDatabase))

/**
 * Begins what a person will be asked about, and goes on once they are: which files a call names is looked up on the real disk,
 * and time that passes meanwhile would pass before anybody was asked.
 */
export const untilAsked = <A, E, R>(asking: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const { changes } = yield* Approvals
    const asked = yield* Effect.forkChild(Stream.runHead(changes), { startImmediately: true })
    const fiber = yield* Effect.forkChild(asking)
    yield* Fiber.join(asked)
    return fiber
  })

export const facts = (over: Partial<CallFacts> = {}): CallFacts => ({
  provider: "codex",
  tool: "Bash",
  input: "npm publish",
  cwd: "/repo",
  policy: "v1",
  files: {},
  ...over
})

export const request = (
  over: Partial<Omit<AskRequest, "facts">> & {
    readonly relayId?: string
    readonly facts?: Effect.Effect<CallFacts>
  } = {}
): AskRequest => {
  const { relayId, ...rest } = over
  return {
    requester: { provider: "codex", relayId: relayId ?? "relay-1", runId: "run-1", spawnedBy: null },
    callId: "call-1",
    call: { tool: "Bash", kind: "shell", subject: "npm publish", cwd: "/repo" },
    policy: "publishing",
    expireMs: null,
    reason: "publishing is for people",
    facts: Effect.succeed(facts()),
    holdMs: 60_000,
    ...rest
  }
}

/** Who answers. */
export const person = { uid: 0, pid: 4242, command: "holdfast" }

/** One that waits. */
export const approval = (id: string, over: Partial<Approval> = {}): Approval => ({
  id,
  requester: { provider: "codex", relayId: "relay", runId: `run-${id}`, spawnedBy: null },
  call: { tool: "Bash", kind: "shell", subject: `echo ${id}`, cwd: "/repo" },
  policy: "careful",
  reason: "a person decides",
  facts: facts(),
  createdAt: 0,
  expiresAt: 600_000,
  callIds: [],
  state: { _tag: "pending" },
  ...over
})

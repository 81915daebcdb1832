/**
 * Supervisor: starts children, restarts them within limits, and stops them in reverse order, each within its budget.
 *
 * OTP's words: one-for-one; permanent children are always restarted, transient ones after an abnormal end, temporary ones
 * never; more than `intensity` restarts within `period` and the supervisor gives the child up. A child given up stays
 * listed with its last error until it is forgotten.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Actor from "./Actor.ts"

export type Restart = "permanent" | "transient" | "temporary"

/** At most `intensity` restarts within any `periodMs`. */
export interface RestartLimits {
  readonly intensity: number
  readonly periodMs: number
}

/** OTP's own default is one restart in five seconds; ours is the app-server's of the design: five in a minute. */
export const defaultLimits: RestartLimits = { intensity: 5, periodMs: 60_000 }

/** Children given up or ended are listed up to this many; the oldest is forgotten first. */
export const maxListedEnds = 64

export type RestartDecision =
  | { readonly _tag: "restart"; readonly restarts: ReadonlyArray<number> }
  | { readonly _tag: "ended" }
  | { readonly _tag: "gave-up" }

/** `restarts` are the times of earlier restarts, oldest first; the decision carries on those that still count. */
export const decideRestart = (
  restart: Restart,
  limits: RestartLimits,
  restarts: ReadonlyArray<number>,
  now: number,
  abnormal: boolean
): RestartDecision => {
  if (restart === "temporary" || (restart === "transient" && !abnormal)) return { _tag: "ended" }
  const recent = restarts.filter((at) => now - at < limits.periodMs)
  return recent.length >= limits.intensity
    ? { _tag: "gave-up" }
    : { _tag: "restart", restarts: [...recent, now] }
}

export const ChildState = Schema.Literals(["running", "stopping", "ended", "gave-up"])
export type ChildState = typeof ChildState.Type

export interface ChildInfo {
  readonly id: string
  readonly state: ChildState
  /** The actor's own word for its state, or the last error's first line. */
  readonly detail: string
  readonly restarts: number
  /** When this life began, in Clock milliseconds. */
  readonly since: number
}

export interface ChildSpec {
  readonly id: string
  readonly restart: Restart
  readonly limits?: RestartLimits
  /** Milliseconds between asking a child to end and interrupting it. */
  readonly shutdownMs: number
}

export class ChildExists extends Schema.TaggedError<ChildExists>()("ChildExists", {
  supervisor: Schema.String,
  id: Schema.String
}) {
  override get message(): string {
    return `${this.supervisor} already has a child ${this.id}.`
  }
}

export interface Supervisor {
  readonly name: string
  /** Starts a supervised actor. Its ref stays good over restarts; a crash costs the event that caused it, not the rest. */
  readonly start: <S, E, A, R>(
    child: ChildSpec,
    spec: Actor.ActorSpec<S, E, A, R>
  ) => Effect.Effect<Actor.Actor<S, E>, ChildExists, R>
  /** Asks, waits the budget, interrupts, waits for the end, and forgets. Nothing happens when there is no such child. */
  readonly stop: (id: string) => Effect.Effect<void>
  readonly list: Effect.Effect<ReadonlyArray<ChildInfo>>
}

interface Child {
  readonly spec: ChildSpec
  readonly actor: { readonly end: Effect.Effect<void>; readonly describe: Effect.Effect<string> }
  fiber: Fiber.Fiber<void> | null
  state: ChildState
  problem: string | null
  restarts: ReadonlyArray<number>
  restarted: number
  since: number
}

const problemOf = (cause: Cause.Cause<unknown>): string => {
  const squashed = Cause.squash(cause)
  return (squashed instanceof Error ? squashed.message : String(squashed)).split("\n")[0]!.slice(0, 200)
}

export const make = Effect.fnUntraced(function* (
  name: string,
  limits: RestartLimits = defaultLimits
): Effect.fn.Return<Supervisor, never, Scope.Scope> {
  const scope = yield* Effect.scope
  // Forked before the finalizer below is added, so it closes after it: children are asked first, not interrupted.
  const fibers = yield* Scope.fork(scope)
  const children = new Map<string, Child>()

  const forgetOldEnds = (): void => {
    const ended = [...children].filter(([, child]) => child.state === "ended" || child.state === "gave-up")
    for (const [id] of ended.slice(0, Math.max(0, ended.length - maxListedEnds))) children.delete(id)
  }

  const supervise = <S, E, R>(child: Child, prepared: Actor.Prepared<S, E, R>) =>
    Effect.gen(function* () {
      while (true) {
        child.since = yield* Clock.currentTimeMillis
        const exit = yield* Effect.exit(prepared.life)
        const abnormal = Exit.isFailure(exit)
        if (abnormal) {
          child.problem = problemOf(exit.cause)
          yield* Effect.logError(`${name}/${child.spec.id} crashed`, exit.cause)
        }
        const decision =
          child.state === "stopping" || !prepared.isOpen()
            ? ({ _tag: "ended" } as const)
            : decideRestart(
                child.spec.restart,
                child.spec.limits ?? limits,
                child.restarts,
                yield* Clock.currentTimeMillis,
                abnormal
              )
        if (decision._tag !== "restart") {
          child.state = decision._tag
          if (decision._tag === "gave-up") yield* Effect.logError(`${name} gave up ${child.spec.id}`)
          if (decision._tag === "ended" && !abnormal) children.delete(child.spec.id)
          forgetOldEnds()
          return yield* prepared.close(exit)
        }
        child.restarts = decision.restarts
        child.restarted++
      }
    }).pipe(Effect.onInterrupt(() => prepared.close(Exit.interrupt())))

  const stop = (id: string): Effect.Effect<void> =>
    Effect.gen(function* () {
      const child = children.get(id)
      if (!child) return
      if (child.fiber && (child.state === "running" || child.state === "stopping")) {
        child.state = "stopping"
        yield* child.actor.end
        yield* Fiber.await(child.fiber).pipe(
          Effect.timeoutOrElse({
            duration: child.spec.shutdownMs,
            orElse: () => Fiber.interrupt(child.fiber!)
          })
        )
      }
      if (children.get(id) === child) children.delete(id)
    })

  yield* Scope.addFinalizer(
    scope,
    Effect.suspend(() => Effect.forEach([...children.keys()].toReversed(), stop, { discard: true }))
  )

  return {
    name,
    start: Effect.fnUntraced(function* <S, E, A, R>(spec: ChildSpec, actorSpec: Actor.ActorSpec<S, E, A, R>) {
      const known = children.get(spec.id)
      if (known && (known.state === "running" || known.state === "stopping"))
        return yield* new ChildExists({ supervisor: name, id: spec.id })
      const prepared = yield* Actor.prepare(actorSpec)
      const child: Child = {
        spec,
        actor: prepared.actor,
        fiber: null,
        state: "running",
        problem: null,
        restarts: [],
        restarted: 0,
        since: yield* Clock.currentTimeMillis
      }
      children.delete(spec.id)
      children.set(spec.id, child)
      child.fiber = yield* Effect.forkIn(supervise(child, prepared), fibers)
      return prepared.actor
    }, Effect.uninterruptible),
    stop: (id) => Effect.uninterruptible(stop(id)),
    list: Effect.suspend(() =>
      Effect.forEach([...children.values()], (child) =>
        Effect.map(child.actor.describe, (detail) => ({
          id: child.spec.id,
          state: child.state,
          detail: child.state === "gave-up" || child.state === "ended" ? (child.problem ?? detail) : detail,
          restarts: child.restarted,
          since: child.since
        }))
      )
    )
  }
})

/**
 * Actor: one fiber, one bounded mailbox, one state that nobody else touches.
 *
 * The state changes in a pure `next(state, event) -> [state, actions]`; an interpreter performs the actions. Others tell
 * (fire and forget), ask (with a deadline) or watch (a Stream of states). An actor ends when it says so, when its scope
 * closes, or when `next` or its interpreter breaks, and then `stopped` knows which.
 */
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import * as PubSub from "effect/PubSub"
import * as Queue from "effect/Queue"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"

/** What a full mailbox does: `wait` suspends the teller, `refuse` fails it, `drop-oldest` forgets the oldest event. */
export type Overflow = "wait" | "refuse" | "drop-oldest"

/** A watcher this many states behind misses the oldest; it never slows the actor. */
export const watchBuffer = 64

export class MailboxFull extends Schema.TaggedError<MailboxFull>()("MailboxFull", {
  actor: Schema.String,
  capacity: Schema.Int
}) {
  override get message(): string {
    return `${this.actor} is overloaded: its mailbox of ${this.capacity} is full. Try again shortly.`
  }
}

export class ActorStopped extends Schema.TaggedError<ActorStopped>()("ActorStopped", {
  actor: Schema.String
}) {
  override get message(): string {
    return `${this.actor} has stopped.`
  }
}

export class AskTimeout extends Schema.TaggedError<AskTimeout>()("AskTimeout", {
  actor: Schema.String,
  deadlineMs: Schema.Finite
}) {
  override get message(): string {
    return `${this.actor} did not answer within ${this.deadlineMs} ms.`
  }
}

/** What an interpreter may do to its own actor. */
export interface Self<E> {
  /**
   * From inside an interpreter only by a forked fiber when the mailbox is `wait`: the actor cannot make room for itself
   * while it performs.
   */
  readonly tell: (event: E) => Effect.Effect<void, MailboxFull | ActorStopped>
  /** For callbacks; false when the event was not taken. */
  readonly tellUnsafe: (event: E) => boolean
  /** Closes at the end of this life of the actor, a crash included. Long work is forked in here. */
  readonly scope: Scope.Scope
  /** No further events; what is in the mailbox is still handled, then the actor has stopped. */
  readonly end: Effect.Effect<void>
}

export interface ActorSpec<S, E, A, R = never> {
  readonly name: string
  /** The state of each life; a restarted actor begins here again. */
  readonly initial: () => S
  readonly next: (state: S, event: E) => readonly [S, ReadonlyArray<A>]
  readonly perform: (action: A, self: Self<E>) => Effect.Effect<void, never, R>
  readonly mailbox: { readonly capacity: number; readonly overflow: Overflow }
  /** One word or two about a state, for `status --tree`. */
  readonly describe: (state: S) => string
}

export interface Actor<S, E> {
  readonly name: string
  readonly tell: (event: E) => Effect.Effect<void, MailboxFull | ActorStopped>
  readonly tellUnsafe: (event: E) => boolean
  /** Sends an event that carries a reply, and waits for it at most `deadlineMs` on the Clock. */
  readonly ask: <A, X = never>(
    event: (reply: Deferred.Deferred<A, X>) => E,
    deadlineMs: number
  ) => Effect.Effect<A, X | AskTimeout | MailboxFull | ActorStopped>
  readonly state: Effect.Effect<S>
  /** The current state, then every later one; ends with the actor. */
  readonly watch: Stream.Stream<S>
  readonly describe: Effect.Effect<string>
  readonly end: Effect.Effect<void>
  /** Completes when the actor will handle nothing more. */
  readonly stopped: Effect.Effect<Exit.Exit<void>>
}

/** An actor that is not running yet: `life` is one life of it, and may be run again after a crash. */
export interface Prepared<S, E, R> {
  readonly actor: Actor<S, E>
  /** Starts from the initial state with what is left in the mailbox; ends normally when the mailbox has ended. */
  readonly life: Effect.Effect<void, never, R>
  /** False once `end` was called: another life would end at once. */
  readonly isOpen: () => boolean
  /** Nobody will run `life` again. */
  readonly close: (exit: Exit.Exit<void>) => Effect.Effect<void>
}

type Seen<S> = { readonly _tag: "state"; readonly state: S } | { readonly _tag: "end" }

const makeMailbox = <E>(capacity: number, overflow: Overflow) =>
  overflow === "wait"
    ? Queue.bounded<E, Cause.Done>(capacity)
    : overflow === "refuse"
      ? Queue.dropping<E, Cause.Done>(capacity)
      : Queue.sliding<E, Cause.Done>(capacity)

export const prepare = Effect.fnUntraced(function* <S, E, A, R>(
  spec: ActorSpec<S, E, A, R>
): Effect.fn.Return<Prepared<S, E, R>> {
  const { name, mailbox: bounds } = spec
  const mailbox = yield* makeMailbox<E>(bounds.capacity, bounds.overflow)
  const seen = yield* PubSub.sliding<Seen<S>>({ capacity: watchBuffer, replay: 1 })
  const stopped = yield* Deferred.make<Exit.Exit<void>>()
  let state = spec.initial()
  let open = true
  PubSub.publishUnsafe(seen, { _tag: "state", state })

  const tell = (event: E): Effect.Effect<void, MailboxFull | ActorStopped> =>
    Effect.flatMap(Queue.offer(mailbox, event), (taken): Effect.Effect<void, MailboxFull | ActorStopped> =>
      taken
        ? Effect.void
        : open
          ? Effect.fail(new MailboxFull({ actor: name, capacity: bounds.capacity }))
          : Effect.fail(new ActorStopped({ actor: name }))
    )
  const tellUnsafe = (event: E): boolean => Queue.offerUnsafe(mailbox, event)
  const end = Effect.sync(() => {
    open = false
    Queue.endUnsafe(mailbox)
  })
  // Not `publishUnsafe`, which drops the newest when a watcher is full instead of sliding.
  const become = (next: S): Effect.Effect<unknown> => {
    if (next === state) return Effect.void
    state = next
    return PubSub.publish(seen, { _tag: "state", state })
  }

  const life = Effect.scopedWith((scope) =>
    Effect.gen(function* () {
      const self: Self<E> = { tell, tellUnsafe, scope, end }
      yield* become(spec.initial())
      while (true) {
        const event = yield* Queue.take(mailbox)
        const [next, actions] = spec.next(state, event)
        yield* become(next)
        for (const action of actions) yield* spec.perform(action, self)
      }
    }).pipe(Effect.catchIf(Cause.isDone, () => Effect.void))
  )

  const close = (exit: Exit.Exit<void>): Effect.Effect<void> =>
    Effect.gen(function* () {
      open = false
      yield* Queue.shutdown(mailbox)
      yield* PubSub.publish(seen, { _tag: "end" })
      yield* Deferred.succeed(stopped, exit)
    })

  const actor: Actor<S, E> = {
    name,
    tell,
    tellUnsafe,
    ask: Effect.fnUntraced(function* <A, X>(
      event: (reply: Deferred.Deferred<A, X>) => E,
      deadlineMs: number
    ) {
      const reply = yield* Deferred.make<A, X>()
      const gone = Effect.andThen(Deferred.await(stopped), Effect.fail(new ActorStopped({ actor: name })))
      return yield* Effect.andThen(tell(event(reply)), Effect.raceFirst(Deferred.await(reply), gone)).pipe(
        Effect.timeoutOrElse({
          duration: deadlineMs,
          orElse: () => Effect.fail(new AskTimeout({ actor: name, deadlineMs }))
        })
      )
    }),
    state: Effect.sync(() => state),
    watch: Stream.fromPubSub(seen).pipe(
      Stream.takeWhile((entry): entry is Extract<Seen<S>, { _tag: "state" }> => entry._tag === "state"),
      Stream.map((entry) => entry.state)
    ),
    describe: Effect.sync(() => spec.describe(state)),
    end,
    stopped: Deferred.await(stopped)
  }
  return { actor, life, close, isOpen: () => open }
})

/** An actor in the current scope, without a supervisor: a crash ends it. */
export const start = Effect.fnUntraced(function* <S, E, A, R>(
  spec: ActorSpec<S, E, A, R>
): Effect.fn.Return<Actor<S, E>, never, R | Scope.Scope> {
  const prepared = yield* prepare(spec)
  yield* Effect.forkScoped(Effect.onExit(prepared.life, prepared.close))
  return prepared.actor
})

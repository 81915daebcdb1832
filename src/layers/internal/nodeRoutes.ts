/** Where a run is: here, or on a node, whose gateway is asked then in the same words. */
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { NodeAway } from "../../services/NodeAway.ts"
import { type LiveNode, Nodes, type RunCalls } from "../../services/Nodes.ts"
import { RunAmbiguous, type RunInfo, type RunNotFound } from "../../services/PtySupervisor.ts"
import { RunId } from "../../services/Run.ts"
import type { RunList } from "../../services/RunControl.ts"

/** Runs of one node that are remembered; of another one every node is asked again. */
const maxRoutes = 1_024
/** A node that does not answer so long is passed over where all of them are asked. */
const askMs = 3_000
/** A node that was here a short time ago is on its way back. */
const returnMs = 5_000
const retryMs = 200
/** A start whose answer was lost is asked for again for so long. */
const startMs = 90_000

const isRunId = Schema.is(RunId)

interface Claim {
  readonly node: LiveNode
  readonly run: RunInfo
}

/** `here`: the ids of the runs of this machine, which no node can have as well. */
export const makeRoutes = Effect.fnUntraced(function* <E>(
  here: Effect.Effect<ReadonlyArray<{ readonly id: string }>, E>
) {
  const nodes = yield* Nodes
  const routes = new Map<string, string>()
  /** By node, so that one that has many does not put the others' out. */
  const runsOf = new Map<string, Set<string>>()

  const remember = (runId: string, nodeId: string): void => {
    const own = runsOf.get(nodeId) ?? new Set()
    runsOf.set(nodeId, own)
    own.delete(runId)
    own.add(runId)
    routes.set(runId, nodeId)
    if (own.size <= maxRoutes) return
    const [oldest] = own
    own.delete(oldest!)
    routes.delete(oldest!)
  }

  /**
   * What nodes say they have, as far as it can be theirs: an id is that of one run, so that it is not of this machine, nor of
   * the node that had it before, nor of two at once. Newest first, as they come.
   */
  const believed = (claims: ReadonlyArray<Claim>) =>
    Effect.gen(function* () {
      if (claims.length === 0) return claims
      const ours = new Set((yield* here).map(({ id }) => id))
      const claimants = new Map<string, string | null>()
      for (const { node, run } of claims)
        claimants.set(run.id, (claimants.get(run.id) ?? node.nodeId) === node.nodeId ? node.nodeId : null)
      const good = claims.filter(
        ({ node, run }) =>
          isRunId(run.id) &&
          !ours.has(run.id) &&
          (routes.get(run.id) ?? claimants.get(run.id)) === node.nodeId
      )
      for (const { node, run } of good.toReversed()) remember(run.id, node.nodeId)
      if (good.length < claims.length)
        yield* Effect.annotateLogs(Effect.logWarning("nodes claim runs that are not theirs"), {
          nodes: [...new Set(claims.filter((one) => !good.includes(one)).map(({ node }) => node.name))]
        })
      return good.map(({ node, run }) => ({ node, run: { ...run, node: node.name } }))
    })

  /** What each node says of a reference; one that does not answer says nothing. */
  const everywhere = (ref: string) =>
    Effect.gen(function* () {
      const live = yield* nodes.live
      const found = yield* Effect.forEach(
        live,
        (node) =>
          node.calls.FindRun({ ref }).pipe(
            // Something else than what was asked for is no answer.
            Effect.map((run) => (run.id.startsWith(ref) || run.spec.name === ref ? [{ node, run }] : [])),
            Effect.timeout(askMs),
            Effect.orElseSucceed(() => [])
          ),
        { concurrency: "unbounded" }
      )
      return yield* believed(found.flat())
    })

  const located = (runId: string, missing: RunNotFound) =>
    Effect.gen(function* () {
      const known = routes.get(runId)
      if (known !== undefined) return yield* nodes.find(known, returnMs)
      const [found] = yield* everywhere(runId)
      return found === undefined ? yield* missing : found.node
    })

  const isElsewhere = (runId: string): boolean => routes.has(runId)

  return {
    /** Here, or where it is. */
    ask: <A, E, R, E2>(
      runId: string,
      here: Effect.Effect<A, E | RunNotFound, R>,
      there: (calls: RunCalls) => Effect.Effect<A, E2>
    ): Effect.Effect<A, E | E2 | RunNotFound | NodeAway, R> =>
      isElsewhere(runId)
        ? Effect.flatMap(nodes.find(routes.get(runId)!, returnMs), ({ calls }) => there(calls))
        : (Effect.catchTag(here as Effect.Effect<A, RunNotFound, R>, "RunNotFound", (missing) =>
            Effect.flatMap(located(runId, missing), ({ calls }) => there(calls))
          ) as Effect.Effect<A, E | E2 | RunNotFound | NodeAway, R>),

    follow: <A, E, R, E2>(
      runId: string,
      here: Stream.Stream<A, E | RunNotFound, R>,
      there: (calls: RunCalls) => Stream.Stream<A, E2>
    ): Stream.Stream<A, E | E2 | RunNotFound | NodeAway, R> =>
      isElsewhere(runId)
        ? Stream.unwrap(Effect.map(nodes.find(routes.get(runId)!, returnMs), ({ calls }) => there(calls)))
        : (Stream.catchTag(here as Stream.Stream<A, RunNotFound, R>, "RunNotFound", (missing) =>
            Stream.unwrap(Effect.map(located(runId, missing), ({ calls }) => there(calls)))
          ) as Stream.Stream<A, E | E2 | RunNotFound | NodeAway, R>),

    /** A run that is not here, by what somebody calls it. */
    find: (
      ref: string,
      missing: RunNotFound
    ): Effect.Effect<RunInfo, E | RunAmbiguous | RunNotFound | NodeAway> =>
      Effect.gen(function* () {
        const found = yield* everywhere(ref)
        const known = routes.get(ref)
        // It is there, and its node does not answer: that is no reason to say that there is none.
        if (found.length === 0 && known !== undefined) {
          const named = (yield* nodes.live).find(({ nodeId }) => nodeId === known)
          return yield* new NodeAway({ node: named?.name ?? known, paired: true })
        }
        if (found.length > 1) return yield* new RunAmbiguous({ ref, matches: found.map(({ run }) => run.id) })
        return found[0]?.run ?? (yield* missing)
      }),

    /** Everything that the nodes have, and who of them is away or did not answer. */
    list: (ended: boolean) =>
      Effect.gen(function* () {
        const live = yield* nodes.live
        const statuses = yield* Effect.orElseSucceed(nodes.statuses, () => [])
        const gone = statuses.filter(({ connection, revokedAt }) => connection === null && revokedAt === null)
        const lists = yield* Effect.forEach(
          live,
          (node) =>
            node.calls.ListRuns({ ended }).pipe(
              Effect.map(({ runs, turns }: RunList) => ({
                runs: runs.map(({ run }) => ({ node, run })),
                turns,
                away: []
              })),
              Effect.timeout(askMs),
              Effect.orElseSucceed(() => ({ runs: [], turns: [], away: [node.name] }))
            ),
          { concurrency: "unbounded" }
        )
        return {
          runs: (yield* believed(lists.flatMap(({ runs }) => runs))).map(({ run }) => run),
          turns: lists.flatMap(({ turns }) => turns),
          away: [...gone.map(({ name }) => name), ...lists.flatMap(({ away }) => away)]
        }
      }),

    /** By an id that is drawn before, so that a start that was cut off can be asked for again and is there once. */
    start: (name: string, runId: string, payload: Parameters<RunCalls["StartRun"]>[0]) =>
      Effect.suspend(() => {
        // Nothing is there of one that was never asked for: only then it is over at once.
        let sent = false
        return Effect.gen(function* () {
          const node = yield* nodes.find(name, returnMs)
          remember(runId, node.nodeId)
          sent = true
          const run = yield* node.calls.StartRun({ ...payload, spec: { ...payload.spec, id: runId } })
          return { ...run, id: runId, node: node.name }
        }).pipe(
          Effect.retry({
            while: (error) => error._tag === "NodeAway" && error.paired && sent,
            schedule: Schedule.spaced(retryMs)
          }),
          Effect.timeoutOrElse({
            duration: startMs,
            orElse: () => Effect.fail(new NodeAway({ node: name, paired: true }))
          })
        )
      })
  }
})

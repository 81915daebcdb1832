/** Control, the gateway's answers: looks into the services, starts runs and relays in the scope of their caller. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import * as Stream from "effect/Stream"
import { AgentDriver } from "../services/AgentDriver.ts"
import { AppServerLease } from "../services/AppServerLease.ts"
import {
  type Approval,
  Approvals,
  type ApprovalsUnavailable,
  isPending,
  maxPending
} from "../services/Approvals.ts"
import { AuditLog, type AuditRow } from "../services/AuditLog.ts"
import { Control, ControlRefused, maxTail, type OpenedRelay, Shutdown } from "../services/Control.ts"
import { Epoch } from "../services/Epoch.ts"
import { byHand, Guard } from "../services/Guard.ts"
import { HookClients } from "../services/HookClients.ts"
import { HookSpool } from "../services/HookSpool.ts"
import { Keeper } from "../services/Keeper.ts"
import { NodeLink } from "../services/NodeLink.ts"
import { Nodes } from "../services/Nodes.ts"
import { Operator } from "../services/Operator.ts"
import { Policy } from "../services/Policy.ts"
import { RelayRegistry } from "../services/RelayRegistry.ts"
import { Settings, version } from "../services/Settings.ts"
import { SupervisionTree } from "../services/SupervisionTree.ts"

export * from "../services/Control.ts"

const refused = (error: { readonly message: string }) => new ControlRefused({ detail: error.message })

export const make = Effect.gen(function* () {
  const { paths } = yield* Settings
  const { current, swept, unmarked } = yield* Epoch
  const registry = yield* RelayRegistry
  const lease = yield* AppServerLease
  const audit = yield* AuditLog
  const approvals = yield* Approvals
  const policy = yield* Policy
  const clients = yield* HookClients
  const guard = yield* Guard
  const spool = yield* HookSpool
  const driver = yield* AgentDriver
  const tree = yield* SupervisionTree
  const keeper = yield* Keeper
  const shutdown = yield* Shutdown
  const link = yield* NodeLink
  const nodes = yield* Nodes

  return Control.of({
    Status: () =>
      Effect.gen(function* () {
        const linked = yield* link.status
        const { listening } = nodes
        const connected = (yield* nodes.live).length
        return {
          ...(linked === null ? {} : { link: linked }),
          ...(listening === null ? {} : { nodes: { url: listening.url, connected } }),
          version,
          epoch: current.epoch,
          owner: current.owner,
          startedAt: current.startedAt,
          upMs: (yield* Clock.currentTimeMillis) - current.startedAt,
          rssBytes: process.memoryUsage.rss(),
          state: paths.state,
          runtime: paths.runtime,
          mark: current.mark,
          unmarked,
          swept,
          keeper: yield* keeper.info,
          reconciled: keeper.reconciled,
          policies: policy.loaded,
          hookClient: clients.best.kind,
          guard: yield* guard.states,
          relays: (yield* registry.list).length,
          leases: yield* lease.list
        }
      }),
    Tree: () =>
      Effect.map(Effect.all([tree.snapshot, keeper.tree]), ([own, kept]) => [
        ...own,
        ...kept.map((node) => ({ ...node, supervisor: `keeper: ${node.supervisor}` }))
      ]),
    Reap: (options) => Effect.mapError(keeper.reap(options), refused),
    Relays: () => registry.list,
    Leases: () => lease.list,
    ResetLeases: () => Effect.map(lease.reset, (closed) => ({ closed })),
    ListApprovals: ({ live }) =>
      Effect.gen(function* () {
        return { approvals: yield* approvals.list(live), now: yield* Clock.currentTimeMillis }
      }),
    FindApproval: ({ ref }) => approvals.find(ref),
    AnswerApproval: ({ ref, answer, note }) =>
      Effect.flatMap(Operator, (operator) => approvals.answer(ref, answer, operator, note)),
    RevokeApproval: ({ ref }) => approvals.revoke(ref),
    WatchApprovals: () =>
      Stream.callback<Approval, ApprovalsUnavailable>(
        (queue) =>
          Effect.gen(function* () {
            // What changes while the list is read has changed since, and the list is older than that.
            const heard = new Set<string>()
            let listing = true
            yield* Effect.forkScoped(
              Stream.runForEach(approvals.changes, (approval) => {
                if (listing) heard.add(approval.id)
                return Queue.offer(queue, approval)
              }),
              { startImmediately: true }
            )
            const open = (yield* approvals.list(true)).filter(
              (approval) => isPending(approval) && !heard.has(approval.id)
            )
            listing = false
            Queue.offerAllUnsafe(queue, open.toReversed())
            return yield* Effect.never
          }),
        { bufferSize: 2 * maxPending, strategy: "sliding" }
      ),
    AuditTail: ({ limit, follow }) => {
      // Rows are numbered from 1: after an empty log everything is new.
      let last = 0
      const noted = (rows: ReadonlyArray<AuditRow>): ReadonlyArray<AuditRow> => {
        last = rows.at(-1)?.seq ?? last
        return rows
      }
      // Following needs the last number even where nothing of the past is shown.
      const past = Stream.fromIterableEffect(
        Effect.map(audit.tail(follow ? Math.max(1, limit) : limit), (rows) =>
          limit === 0 ? noted(rows).slice(0, 0) : noted(rows)
        )
      )
      // What fell between the look back and the subscription, or past a slow reader, is fetched when the gap shows.
      const later = Stream.mapEffect(audit.live, (row) => {
        if (row.seq <= last) return Effect.succeed([])
        if (row.seq === last + 1) return Effect.sync(() => noted([row]))
        // All there is: more rows may have come since, and a look back of just the gap's length would slide over it.
        return Effect.map(audit.tail(maxTail), (rows) => noted(rows.filter(({ seq }) => seq > last)))
      })
      return Stream.mapError(follow ? Stream.concat(past, Stream.flattenIterable(later)) : past, refused)
    },
    FindAuditRow: ({ seq }) => Effect.mapError(audit.find(seq), refused),
    ArmCanary: () => Effect.map(guard.arm, (nonce) => ({ nonce })),
    ExportAudit: () => Stream.mapError(audit.all, refused),
    VerifyAudit: () => Effect.mapError(Effect.andThen(spool.take, audit.verify), refused),
    OpenRelay: ({ provider, sessionId, events }) =>
      Stream.callback<OpenedRelay, ControlRefused>((queue) =>
        Effect.gen(function* () {
          const relay = yield* Effect.mapError(
            registry.register({
              provider,
              sessionId,
              runId: `${byHand}${current.epoch.slice(-6)}`,
              allowedEvents: events
            }),
            refused
          )
          yield* Queue.offer(queue, {
            relayId: relay.relayId,
            generation: relay.generation,
            recordPath: relay.recordPath,
            commands: relay.commands as Record<string, string>
          })
          return yield* Effect.never
        })
      ),
    RunCodex: (request) => driver.run(request),
    AttachCodex: ({ runId }) => driver.attach(runId),
    // Ending at once would close the socket under the answer.
    Down: () =>
      Stream.succeed({ owner: current.owner }).pipe(
        Stream.concat(Stream.never),
        Stream.ensuring(shutdown.request("down"))
      )
  })
})

export const layer = Control.toLayer(make)

/** reap: asks the gateway, or looks itself where there is none. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as fs from "node:fs"
import { ControlClient } from "../../layers/ControlClient.ts"
import * as Database from "../../layers/Database.ts"
import * as InstanceMark from "../../layers/InstanceMark.ts"
import * as RunReaper from "../../layers/RunReaper.ts"
import * as Syscalls from "../../layers/Syscalls.ts"
import * as Report from "../../services/Report.ts"
import { Settings } from "../../services/Settings.ts"
import { show } from "./answers.ts"
import { oneGateway } from "./operator.ts"

const reaper = RunReaper.layer.pipe(
  Layer.provide([Database.layer, Syscalls.layer]),
  Layer.provide(InstanceMark.layer)
)

/** What the next `holdfast up` would do; a state directory that does not exist is not made for it. */
const withoutGateway = Effect.fnUntraced(function* (dryRun: boolean) {
  const { database } = (yield* Settings).paths
  if (!fs.existsSync(database)) return []
  return yield* Effect.provide(
    Effect.flatMap(RunReaper.RunReaper, ({ plan, reap }) => (dryRun ? plan : reap("both-lost", []))),
    reaper
  )
})

export const reap = Command.make(
  "reap",
  {
    dryRun: Flag.Boolean("dry-run").pipe(
      Flag.withDefault(false),
      Flag.withDescription("Show what would be done, and touch nothing")
    )
  },
  ({ dryRun }) =>
    oneGateway(Effect.flatMap(ControlClient, (client) => client.Reap({ dryRun }))).pipe(
      Effect.catchTag("NoGateway", () => withoutGateway(dryRun)),
      Effect.flatMap((all) => show(all, Report.reaped))
    )
).pipe(
  Command.withDescription("Deal with runs that nobody supervises any more: what the next start would do")
)

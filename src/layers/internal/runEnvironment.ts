/** What a run finds in its environment, its cookie and place included. */
import type { RunVariables } from "../../services/PtySupervisor.ts"
import type { RunSpec } from "../../services/Run.ts"
import type { SettingsShape } from "../../services/Settings.ts"
import { passed } from "./passedVariables.ts"
import type { placesIn } from "./runPlaces.ts"
import type * as Effect from "effect/Effect"

/** What RunLog keeps and Screen draws; pipes are no terminal at all. */
const terminals = { pty: "xterm-256color", pipes: "dumb" } as const

/** Of this process by name, over it what its spec says, and over that what comes with its start and is kept nowhere. */
export const runEnvironment =
  (places: Effect.Success<ReturnType<typeof placesIn>>, environment: SettingsShape["environment"]) =>
  (id: string, { env, pty }: RunSpec, variables: RunVariables): Readonly<Record<string, string>> =>
    places.named(id, {
      ...passed(environment),
      TERM: terminals[pty === null ? "pipes" : "pty"],
      ...env,
      ...variables
    })

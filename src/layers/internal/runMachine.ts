/** What runs need of the machine beside their processes; a test without processes brings its own. */
import type * as Effect from "effect/Effect"
import { onDisk, type PlacesOnDisk } from "./runPlaces.ts"
import { makeTraces, type Traces } from "./traces.ts"

export interface RunMachine {
  readonly places: PlacesOnDisk
  readonly traces: Effect.Effect<Traces>
}

export const thisMachine: RunMachine = { places: onDisk, traces: makeTraces }

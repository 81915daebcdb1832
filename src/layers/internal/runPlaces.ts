/** The directories of runs on disk. Without them a run works all the same, and is named by its environment none the less. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as path from "node:path"
import { placed, type RunPlace, runPlace } from "../../services/RunPlace.ts"
import { maxSocketPathBytes, type Paths } from "../../services/Settings.ts"
import { effectiveUid, ensurePrivateDirectory } from "./privateDirectory.ts"

export interface PlacesOnDisk {
  readonly make: (place: RunPlace) => Effect.Effect<void>
  readonly remove: (place: RunPlace) => Effect.Effect<void>
}

export interface RunPlaces {
  /** There for as long as the scope. */
  readonly make: (runId: string) => Effect.Effect<void, never, Scope.Scope>
  /** Of runs whose gateway did not. */
  readonly remove: (runIds: ReadonlyArray<string>) => Effect.Effect<void>
  /** An environment that names the run. */
  readonly named: (runId: string, env: Readonly<Record<string, string>>) => Readonly<Record<string, string>>
}

/** What a tmux server that was killed has left in it goes with it; a link in it is removed and not followed. */
const remove = ({ bin, tmux }: RunPlace): Effect.Effect<void> =>
  Effect.promise(async () => {
    if (tmux !== null) await fs.promises.rm(tmux, { recursive: true, force: true })
    await fs.promises.rm(bin, { recursive: true, force: true })
    // Only a run that has no log leaves nothing else in it.
    await fs.promises.rmdir(path.dirname(bin)).catch(() => undefined)
  }).pipe(
    Effect.catchDefect((defect) => Effect.logWarning("a run's own directories could not be removed", defect))
  )

export const onDisk: PlacesOnDisk = {
  make: ({ bin, tmux }) =>
    Effect.forEach(tmux === null ? [bin] : [bin, tmux], ensurePrivateDirectory, { discard: true }).pipe(
      Effect.catch((error) => Effect.logWarning(error.message))
    ),
  remove
}

export const placesIn = (paths: Paths, disk: PlacesOnDisk): RunPlaces => {
  const limits = { uid: effectiveUid(), maxSocketBytes: maxSocketPathBytes(process.platform) }
  const of = (runId: string) => runPlace(paths, runId, limits)
  return {
    make: (runId) => Effect.acquireRelease(disk.make(of(runId)), () => disk.remove(of(runId))),
    remove: (runIds) => Effect.forEach(runIds, (runId) => disk.remove(of(runId)), { discard: true }),
    named: (runId, env) => placed(env, of(runId), runId, paths)
  }
}

/** The directories of runs on disk, and their cgroups. Without them a run works all the same, and is named by its environment none the less. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as path from "node:path"
import { placed, type RunPlace, runPlace } from "../../services/RunPlace.ts"
import { maxSocketPathBytes, type Paths } from "../../services/Settings.ts"
import { type CgroupsFound, findCgroups, groupOf, makeGroup, removeGroup } from "./cgroups.ts"
import { effectiveUid, ensurePrivateDirectory } from "./privateDirectory.ts"

export interface PlacesOnDisk {
  readonly cgroups: Effect.Effect<CgroupsFound>
  readonly make: (place: RunPlace) => Effect.Effect<void>
  readonly remove: (place: RunPlace) => Effect.Effect<void>
}

export interface RunPlaces {
  /** There for as long as the scope; the run's cgroup, where it can have one. */
  readonly make: (runId: string) => Effect.Effect<string | null, never, Scope.Scope>
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
  cgroups: findCgroups,
  make: ({ bin, tmux }) =>
    Effect.forEach(tmux === null ? [bin] : [bin, tmux], ensurePrivateDirectory, { discard: true }).pipe(
      Effect.catch((error) => Effect.logWarning(error.message))
    ),
  remove
}

export const placesIn = Effect.fnUntraced(function* (
  paths: Paths,
  disk: PlacesOnDisk
): Effect.fn.Return<RunPlaces> {
  const limits = { uid: effectiveUid(), maxSocketBytes: maxSocketPathBytes(process.platform) }
  const of = (runId: string) => runPlace(paths, runId, limits)
  const cgroups = yield* disk.cgroups
  const group = (runId: string) => (cgroups._tag === "Delegated" ? groupOf(cgroups.directory, runId) : null)
  const remove = (runId: string) => {
    const cgroup = group(runId)
    return Effect.andThen(cgroup === null ? Effect.void : removeGroup(cgroup), disk.remove(of(runId)))
  }
  return {
    make: (runId) =>
      Effect.acquireRelease(
        Effect.gen(function* () {
          yield* disk.make(of(runId))
          const cgroup = group(runId)
          return cgroup !== null && (yield* makeGroup(cgroup)) ? cgroup : null
        }),
        () => remove(runId)
      ),
    remove: (runIds) => Effect.forEach(runIds, remove, { discard: true }),
    named: (runId, env) => placed(env, of(runId), runId, paths)
  }
})

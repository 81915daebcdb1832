/** A private directory on a real file system, as BridgeStore keeps it: verified by every operation, refused or repaired. */
import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as fs from "node:fs"
import * as path from "node:path"
import { type DirectoryProblem, DirectoryRefused } from "../src/services/PrivateDirectory.ts"
import { gatewayA, inScope, modeOf, Place, spec, World } from "./support/bridgeFiles.ts"

const isRoot = process.getuid?.() === 0

const refusalOf = <A, E>(effect: Effect.Effect<A, E>) =>
  Effect.map(Effect.flip(effect), (error) =>
    error instanceof DirectoryRefused ? { path: error.path, problem: error.problem } : null
  )

const foreign = (directory: string): void => {
  fs.mkdirSync(directory, { recursive: true, mode: 0o700 })
  fs.chownSync(directory, 12_345, 12_345)
}

describe("PrivateDirectory", () => {
  const cases: Record<string, (directory: string) => void> = {
    symlink: (directory) => {
      fs.mkdirSync(`${directory}-elsewhere`, { recursive: true, mode: 0o700 })
      fs.symlinkSync(`${directory}-elsewhere`, directory)
    },
    "not-a-directory": (directory) => {
      fs.mkdirSync(path.dirname(directory), { recursive: true, mode: 0o700 })
      fs.writeFileSync(directory, "")
    },
    // Only root can give a directory away.
    ...(isRoot ? { "foreign-owner": foreign } : {})
  }
  for (const [problem, spoil] of Object.entries(cases)) {
    for (const which of ["runtime", "bridges"] as const) {
      it.effect(`is refused by every operation: ${which}, ${problem}`, () =>
        Effect.gen(function* () {
          const store = yield* gatewayA
          const directory = (yield* Place)[which]
          spoil(directory)
          const refusals = [
            yield* refusalOf(Effect.scoped(store.publish(spec()))),
            yield* refusalOf(store.lookup("relay-1")),
            yield* refusalOf(store.prune)
          ]
          assert.deepStrictEqual(
            refusals,
            refusals.map(() => ({ path: directory, problem: problem as DirectoryProblem }))
          )
        }).pipe(Effect.provide(World))
      )
    }
  }

  it.effect("is noticed even after it was private, and its record is left alone at the end", () =>
    Effect.gen(function* () {
      const store = yield* gatewayA
      const { bridges } = yield* Place
      const { close } = yield* inScope(store.publish(spec()))
      fs.renameSync(bridges, `${bridges}-elsewhere`)
      fs.symlinkSync(`${bridges}-elsewhere`, bridges)
      assert.strictEqual((yield* refusalOf(store.lookup("relay-1")))?.problem, "symlink")
      yield* close
      assert.strictEqual(fs.readdirSync(`${bridges}-elsewhere`).length, 1)
    }).pipe(Effect.provide(World))
  )

  it.effect("is repaired when it is ours", () =>
    Effect.gen(function* () {
      const store = yield* gatewayA
      const { bridges } = yield* Place
      fs.mkdirSync(bridges, { recursive: true, mode: 0o700 })
      for (const mode of [0o777, 0o755, 0o500, 0o2700, 0o1700]) {
        fs.chmodSync(bridges, mode)
        yield* store.prune
        assert.strictEqual(modeOf(bridges), 0o700)
      }
    }).pipe(Effect.provide(World))
  )

  it.effect("is refused with the system's reason when it cannot be made", () =>
    Effect.gen(function* () {
      const store = yield* gatewayA
      const { runtime } = yield* Place
      fs.writeFileSync(path.dirname(runtime), "")
      const exit = yield* Effect.exit(store.prune)
      assert.include(Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "", `${runtime} is refused`)
      assert.include(Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "", "(ENOTDIR)")
    }).pipe(Effect.provide(World))
  )
})

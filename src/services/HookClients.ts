/**
 * HookClients: which of the programs that can answer a hook this machine has, each tried once before it is trusted.
 *
 * All keep the same promises (HookRelay); they differ in what a hook costs. A provider starts one per tool call.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { HookClient } from "./HookRelay.ts"
import type { DirectoryRefused } from "./PrivateDirectory.ts"

/** Cheapest first: perl starts in a tenth of Node's time, nc with its sh in a third, curl in half; Node is always there. */
export const preference = ["perl", "nc", "curl", "node"] as const satisfies ReadonlyArray<HookClient["kind"]>

/** The file of the package that each kind runs. */
export const fileOf: Readonly<Record<HookClient["kind"], string>> = {
  perl: "hookRelay.pl",
  nc: "hookRelay.sh",
  curl: "hookRelay.sh",
  node: "hookRelay.cjs"
}

/** The words that start a client, before its own four arguments. */
export const argvOf = (
  kind: HookClient["kind"],
  program: string,
  directory: string
): ReadonlyArray<string> => {
  const file = `${directory}/${fileOf[kind]}`
  return kind === "nc" || kind === "curl" ? ["/bin/sh", file, kind, program] : [program, file]
}

export class HookClientUnusable extends Schema.TaggedError<HookClientUnusable>()("HookClientUnusable", {
  kind: Schema.Literals(preference),
  problem: Schema.Literals(["not-found", "does-not-work", "file-missing"])
}) {
  override get message(): string {
    const remedy = {
      "not-found": `${this.kind} is not on the PATH. Install it, or let holdfast choose by removing hook.client from the config file and HOLDFAST_HOOK_CLIENT from the environment`,
      "does-not-work": `the ${this.kind} on the PATH cannot talk to a Unix socket the way a hook must. Install another, or let holdfast choose by removing hook.client from the config file and HOLDFAST_HOOK_CLIENT from the environment`,
      "file-missing": `${fileOf[this.kind]} is missing. Install holdfast again; in a clone, run: npm run build`
    }
    return `Hooks cannot be answered by way of ${this.kind}: ${remedy[this.problem]}.`
  }
}

export class HookClients extends Context.Service<
  HookClients,
  {
    /** The cheapest client that works here, or the one that the settings force. */
    readonly best: HookClient
    /** Tries every client and gives those that work, cheapest first; the forced one alone when one is forced. */
    readonly found: Effect.Effect<ReadonlyArray<HookClient>, DirectoryRefused>
  }
>()("holdfast/HookClients") {}

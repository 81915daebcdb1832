/** HookClients, fake: a perl that nobody starts. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { HookClients } from "../services/HookClients.ts"
import type { HookClient } from "../services/HookRelay.ts"

export const perl: HookClient = { kind: "perl", argv: ["/usr/bin/perl", "/dist/hookRelay.pl"] }

export const layer: Layer.Layer<HookClients> = Layer.succeed(HookClients, {
  best: perl,
  found: Effect.succeed([perl])
})

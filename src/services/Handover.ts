/**
 * Handover: whether what a keeper holds for this gateway is left to the next gateway when this one ends.
 *
 * Never, unless a program says so: whoever embeds the layers has nobody to hand anything to.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"

export class Handover extends Context.Reference<{
  /** Asked as something ends; true only while the whole gateway does, and another is to go on. */
  readonly leaving: Effect.Effect<boolean>
}>("holdfast/Handover", { defaultValue: () => ({ leaving: Effect.succeed(false) }) }) {}

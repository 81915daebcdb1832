/** PinStore, live: a file for each, put into place by a link, so that none ever takes the place of another. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as crypto from "node:crypto"
import * as path from "node:path"
import { KeptPin, PinStore } from "../services/PinStore.ts"
import { Settings } from "../services/Settings.ts"
import { TlsPinsUnusable } from "../services/TlsSessionCache.ts"
import { createFile, glance } from "./internal/atomicFile.ts"
import { ensurePrivateDirectory, privateDirectoryExists } from "./internal/privateDirectory.ts"

export * from "../services/PinStore.ts"

/** A name has at most 253 characters and a port. */
const maxFileBytes = 1024

const KeptText = Schema.fromJsonString(Schema.Struct({ version: Schema.Literal(1), ...KeptPin.fields }))
const decode = Schema.decodeUnknownOption(KeptText)
const encode = Schema.encodeSync(KeptText)

const unusable = (file: string, problem: TlsPinsUnusable["problem"]) =>
  new TlsPinsUnusable({ path: file, problem })

export const make = Effect.gen(function* () {
  const { paths } = yield* Settings
  const directory = path.join(paths.state, "pins")
  const fileOf = (name: string): string =>
    path.join(directory, `${crypto.hash("sha256", name, "hex").slice(0, 32)}.json`)

  const read = (name: string): Effect.Effect<Option.Option<KeptPin>, TlsPinsUnusable> => {
    const file = fileOf(name)
    return Effect.gen(function* () {
      const found = yield* Effect.try({
        try: () => glance(file, maxFileBytes),
        catch: () => unusable(file, "unreadable")
      })
      if (found === null) return Option.none()
      const kept = decode(found.text)
      // Under another name, or half of it: somebody else's work, which is not believed and not repaired.
      if (Option.isNone(kept) || kept.value.name !== name) return yield* unusable(file, "malformed")
      const { version: _, ...pin } = kept.value
      return Option.some(pin)
    })
  }

  const find = Effect.fn("PinStore.find")(function* (name: string) {
    const there = yield* Effect.mapError(privateDirectoryExists(directory), () =>
      unusable(directory, "unreadable")
    )
    return there ? yield* read(name) : Option.none()
  })

  const keep = Effect.fn("PinStore.keep")(function* (
    name: string,
    seen: KeptPin | { leaf: string; spki: string }
  ) {
    const at = yield* Clock.currentTimeMillis
    const file = fileOf(name)
    yield* Effect.mapError(ensurePrivateDirectory(directory), () => unusable(directory, "unwritable"))
    const text = `${encode({ version: 1, name, leaf: seen.leaf, spki: seen.spki, at })}\n`
    yield* Effect.try({
      try: () => createFile(file, `${file}.${crypto.randomUUID()}`, text),
      catch: () => unusable(file, "unwritable")
    })
    const kept = yield* read(name)
    return yield* Effect.mapError(Effect.fromOption(kept), () => unusable(file, "unwritable"))
  })

  return PinStore.of({ find, keep })
})

export const layer = Layer.effect(PinStore, make)

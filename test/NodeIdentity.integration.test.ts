/** NodeIdentity on a real file system: one key, made once, durable, private, and never replaced. */
import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as TestClock from "effect/testing/TestClock"
import * as crypto from "node:crypto"
import * as fs from "node:fs"
import * as path from "node:path"
import { inspect } from "node:util"
import { nodeIdOf, verify } from "../src/layers/internal/ed25519.ts"
import { layer } from "../src/layers/NodeIdentity.ts"
import { NodeIdentity, NodeIdentityUnusable } from "../src/services/NodeIdentity.ts"
import { Settings } from "../src/services/Settings.ts"
import { run } from "./support/gateway.ts"
import { temporaryDirectory } from "./support/HookGateway.ts"

const isRoot = process.getuid?.() === 0
const bytes = Buffer.from("what is signed")

const settingsIn = (state: string) =>
  Layer.effect(
    Settings,
    Effect.map(Settings, (all) => ({ ...all, paths: { ...all.paths, state } }))
  )

const identityIn = (state: string) =>
  Effect.provide(NodeIdentity, Layer.fresh(layer).pipe(Layer.provide(settingsIn(state))))

const fileIn = (state: string) => path.join(state, "node", "identity.json")
const modeOf = (file: string) => fs.lstatSync(file).mode & 0o7777

/** A state directory with an identity, and the text of its file. */
const made = Effect.gen(function* () {
  const state = path.join(yield* temporaryDirectory, "state")
  const { publicKey } = yield* identityIn(state)
  return { state, publicKey, text: fs.readFileSync(fileIn(state), "utf8") }
})

/** A path of so many bytes below a directory. */
const lengthened = (directory: string, length: number): string => {
  const missing = length - directory.length
  const last = missing % 100 < 2 ? (missing % 100) + 100 : missing % 100
  return `${directory}${`/${"d".repeat(99)}`.repeat((missing - last) / 100)}/${"d".repeat(last - 1)}`
}

const refusalIn = (state: string) =>
  Effect.map(Effect.sandbox(Effect.flip(identityIn(state))), (error) => {
    assert.instanceOf(error, NodeIdentityUnusable)
    assert.include(error.message, error.path)
    return error
  })

describe("NodeIdentity", () => {
  it.effect(
    "a key is made once, in a private file of a private directory, and is the same from then on",
    () =>
      Effect.gen(function* () {
        yield* TestClock.setTime(1_234)
        const { state, publicKey, text } = yield* made
        assert.deepStrictEqual(fs.readdirSync(path.dirname(fileIn(state))), ["identity.json"])
        assert.deepStrictEqual(
          [state, path.dirname(fileIn(state)), fileIn(state)].map(modeOf),
          [0o700, 0o700, 0o600]
        )
        assert.strictEqual(JSON.parse(text).createdAt, 1_234)
        const again = yield* identityIn(state)
        assert.strictEqual(again.publicKey, publicKey)
        assert.strictEqual(fs.readFileSync(fileIn(state), "utf8"), text)
        assert.isTrue(verify(publicKey, bytes, again.sign(bytes)))
      })
  )

  it.effect("the umask takes nothing away from it, and gives nothing", () =>
    Effect.gen(function* () {
      for (const mask of [0o000, 0o777]) {
        const state = path.join(yield* temporaryDirectory, "state")
        const before = process.umask(mask)
        yield* Effect.ensuring(
          identityIn(state),
          Effect.sync(() => process.umask(before))
        )
        assert.strictEqual(modeOf(fileIn(state)), 0o600)
      }
    })
  )

  it.effect("a signature holds for its key and its bytes alone", () =>
    Effect.gen(function* () {
      const { publicKey, sign } = yield* identityIn(yield* temporaryDirectory)
      const other = yield* identityIn(yield* temporaryDirectory)
      const signature = sign(bytes)
      const text = Buffer.from(signature).toString("base64url")
      const flipped = Uint8Array.from(signature, (byte, at) => (at === 7 ? byte ^ 1 : byte))
      assert.deepStrictEqual(
        [
          verify(publicKey, bytes, signature),
          verify(publicKey, bytes, text),
          verify(other.publicKey, bytes, signature),
          verify(publicKey, Buffer.from("what is signeD"), signature),
          verify(publicKey, bytes, flipped),
          verify(publicKey, bytes, signature.subarray(1)),
          verify(publicKey, bytes, `${text}=`),
          verify(publicKey, bytes, ""),
          verify(publicKey.slice(1), bytes, signature),
          verify(`${publicKey.slice(0, -1)}B`, bytes, signature),
          verify("", bytes, signature)
        ],
        [true, true, ...Array.from({ length: 9 }, () => false)]
      )
      const id = `n-${crypto.createHash("sha256").update(Buffer.from(publicKey, "base64url")).digest("hex").slice(0, 16)}`
      assert.strictEqual(nodeIdOf(publicKey), id)
    })
  )

  const otherKey = crypto
    .generateKeyPairSync("ec", { namedCurve: "P-256" })
    .privateKey.export({ type: "pkcs8", format: "der" })
    .toString("base64url")

  const spoiled: Record<string, readonly [problem: string, spoil: (file: string, text: string) => void]> = {
    "cut off": ["malformed", (file, text) => fs.writeFileSync(file, text.slice(0, 60))],
    empty: ["malformed", (file) => fs.writeFileSync(file, "")],
    "of another version": [
      "malformed",
      (file, text) => fs.writeFileSync(file, text.replace(`"version":1`, `"version":2`))
    ],
    "with a key of another kind": [
      "malformed",
      (file) => fs.writeFileSync(file, JSON.stringify({ version: 1, privateKey: otherKey, createdAt: 1 }))
    ],
    "with a key that is none": [
      "malformed",
      (file) => fs.writeFileSync(file, JSON.stringify({ version: 1, privateKey: "AAAA", createdAt: 1 }))
    ],
    "much too long": ["unreadable", (file, text) => fs.appendFileSync(file, " ".repeat(5000 - text.length))],
    "open to others": ["wrong-mode", (file) => fs.chmodSync(file, 0o640)],
    "with a set-id bit": ["wrong-mode", (file) => fs.chmodSync(file, 0o4600)],
    "a link": [
      "refused",
      (file) => {
        fs.renameSync(file, `${file}.real`)
        fs.symlinkSync(`${file}.real`, file)
      }
    ],
    "a link to nothing": [
      "refused",
      (file) => {
        fs.unlinkSync(file)
        fs.symlinkSync(`${file}.gone`, file)
      }
    ],
    "a directory": [
      "refused",
      (file) => {
        fs.unlinkSync(file)
        fs.mkdirSync(file)
      }
    ],
    ...(isRoot
      ? { "another user's": ["refused", (file: string) => fs.chownSync(file, 12_345, 12_345)] as const }
      : {})
  }
  for (const [how, [problem, spoil]] of Object.entries(spoiled)) {
    it.effect(`a file that is ${how} is ${problem}, left as it is, and no new key is made`, () =>
      Effect.gen(function* () {
        const { state, text } = yield* made
        const file = fileIn(state)
        spoil(file, text)
        const look = () => [
          fs.readdirSync(path.dirname(file)).toSorted(),
          modeOf(file),
          fs.existsSync(file) && fs.statSync(file).isFile() ? fs.readFileSync(file, "utf8") : null
        ]
        const before = look()
        const error = yield* refusalIn(state)
        assert.deepStrictEqual({ ...error }, { ...error, path: file, problem } as never)
        assert.deepStrictEqual(look(), before)
      })
    )
  }

  it.effect("a directory that is a link is refused by its name", () =>
    Effect.gen(function* () {
      const state = yield* temporaryDirectory
      fs.mkdirSync(path.join(state, "elsewhere"), { mode: 0o700 })
      fs.symlinkSync(path.join(state, "elsewhere"), path.join(state, "node"))
      const { path: where, problem } = yield* refusalIn(state)
      assert.deepStrictEqual([where, problem], [path.join(state, "node"), "refused"])
      assert.deepStrictEqual(fs.readdirSync(path.join(state, "elsewhere")), [])
    })
  )

  it.effect("what cannot be written is no identity, and nothing of it is left", () =>
    Effect.gen(function* () {
      // Its own path may have 4095 bytes, and has: that of the file beside it would have more.
      const state = lengthened(yield* temporaryDirectory, 4095 - "/node/identity.json".length)
      const { path: where, problem } = yield* refusalIn(state)
      assert.deepStrictEqual([where, problem], [fileIn(state), "unwritable"])
      assert.deepStrictEqual(fs.readdirSync(path.dirname(fileIn(state))), [])
    })
  )

  it.effect("the private key is in no error and in nothing that is printed of the service", () =>
    Effect.gen(function* () {
      const { state, text } = yield* made
      const { privateKey } = JSON.parse(text)
      const service = yield* identityIn(state)
      fs.writeFileSync(fileIn(state), text.replace(`"createdAt"`, `"createdAt" "`))
      const exit = yield* Effect.exit(identityIn(state))
      const shown = [
        inspect(service, { depth: 10 }),
        exit._tag === "Failure" ? Cause.pretty(exit.cause) : "",
        inspect(exit, { depth: 10 }),
        JSON.stringify(exit)
      ].join("\n")
      assert.include(shown, "malformed")
      assert.notInclude(shown, privateKey)
      assert.notInclude(shown, Buffer.from(privateKey, "base64url").toString("base64").slice(8, 40))
    })
  )

  it.live("processes that start at once end with one and the same key", () =>
    Effect.gen(function* () {
      const program = new URL("./fixtures/makes-an-identity.ts", import.meta.url).pathname
      const directory = yield* temporaryDirectory
      const rounds = 40
      const args = [program, directory, `${rounds}`, `${Date.now() + 4_000}`, "25"]
      const ran = yield* Effect.all(
        Array.from({ length: 3 }, () => run(process.execPath, args, { env: {} })),
        { concurrency: "unbounded" }
      )
      const said = ran.map(({ stdout, stderr }): ReadonlyArray<string> => {
        assert.strictEqual(stderr, "")
        return JSON.parse(stdout)
      })
      for (let round = 0; round < rounds; round++) {
        const keys = said.map((keys) => keys[round])
        assert.match(keys[0]!, /^[\w-]{43}$/)
        assert.deepStrictEqual(keys, [keys[0], keys[0], keys[0]])
        assert.deepStrictEqual(fs.readdirSync(path.join(directory, `${round}`, "node")), ["identity.json"])
      }
      assert.strictEqual(new Set(said[0]).size, rounds)
    })
  )
})

/** GatewayCertificate on a real file system and over real TLS: made once, kept, renewed for its key, or the one that was given. */
import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as TestClock from "effect/testing/TestClock"
import * as crypto from "node:crypto"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import * as tls from "node:tls"
import { inspect } from "node:util"
import { layer } from "../src/layers/GatewayCertificate.ts"
import { fingerprintsOf } from "../src/layers/internal/tlsDial.ts"
import * as PinStore from "../src/layers/PinStore.ts"
import * as TlsSessionCache from "../src/layers/TlsSessionCache.ts"
import {
  certificateLifeMs,
  GatewayCertificate,
  GatewayCertificateUnusable,
  renewBeforeMs,
  type ServerCertificate,
  validBeforeMs
} from "../src/services/GatewayCertificate.ts"
import { Settings } from "../src/services/Settings.ts"
import { pinsOf, type TlsPin } from "../src/services/TlsPin.ts"
import { makeCertificate } from "./support/certificates.ts"
import { temporaryDirectory } from "./support/HookGateway.ts"
import { recordingServer } from "./support/tlsServer.ts"

const isRoot = process.getuid?.() === 0
const none = { certificate: null, key: null }
const now = Date.UTC(2026, 10, 29, 12)

const settingsOf = (state: string, nodes: { certificate: string | null; key: string | null } = none) =>
  Layer.effect(
    Settings,
    Effect.map(Settings, (all) => ({
      ...all,
      nodes: { listen: null, ...nodes },
      paths: { ...all.paths, state }
    }))
  )

/** Asked of a gateway that has just started. */
const certificateIn = (state: string, nodes = none as Parameters<typeof settingsOf>[1]) =>
  Effect.provide(
    Effect.flatMap(GatewayCertificate, ({ certificate }) => certificate),
    Layer.fresh(layer).pipe(Layer.provide(settingsOf(state, nodes)))
  )

const refusalOf = (state: string, nodes?: Parameters<typeof settingsOf>[1]) =>
  Effect.map(Effect.flip(certificateIn(state, nodes)), (error) => {
    assert.instanceOf(error, GatewayCertificateUnusable)
    assert.include(error.message, error.path)
    return [path.basename(error.path), error.problem]
  })

const directoryIn = (state: string) => path.join(state, "nodes")
const modeOf = (file: string) => fs.lstatSync(file).mode & 0o7777

/** Everything in a directory as it is. */
const snapshot = (directory: string) =>
  fs.readdirSync(directory).map((name) => {
    const file = path.join(directory, name)
    const stats = fs.lstatSync(file)
    return [name, stats.ino, stats.mode, stats.isFile() ? fs.readFileSync(file, "utf8") : null]
  })

const fresh = Effect.gen(function* () {
  yield* TestClock.setTime(now)
  const state = path.join(yield* temporaryDirectory, "state")
  return { state, directory: directoryIn(state), first: yield* certificateIn(state) }
})

const x509Of = ({ cert }: ServerCertificate) => new crypto.X509Certificate(cert)

describe("GatewayCertificate", () => {
  it.effect("one of our own is made once, for this machine, and kept", () =>
    Effect.gen(function* () {
      const { state, directory, first } = yield* fresh
      const x509 = x509Of(first)
      assert.deepStrictEqual(
        {
          names: first.names.slice(0, 3),
          life: x509.validToDate.getTime() - x509.validFromDate.getTime(),
          from: x509.validFromDate.getTime(),
          notAfter: first.notAfter,
          fingerprints: first.fingerprints,
          isOwn: x509.verify(x509.publicKey) && x509.checkPrivateKey(crypto.createPrivateKey(first.key)),
          curve: x509.publicKey.asymmetricKeyDetails?.namedCurve,
          authority: x509.ca,
          usage: x509.keyUsage
        },
        {
          names: ["localhost", "127.0.0.1", "::1"],
          life: certificateLifeMs,
          from: now - validBeforeMs,
          notAfter: now - validBeforeMs + certificateLifeMs,
          fingerprints: fingerprintsOf(x509.raw),
          isOwn: true,
          curve: "prime256v1",
          authority: false,
          // Node says of the extended ones by their number: server authentication.
          usage: ["1.3.6.1.5.5.7.3.1"]
        }
      )
      if (/^[a-z0-9-]+$/.test(os.hostname())) assert.include(first.names, os.hostname())
      assert.isTrue(["localhost", ...first.names.slice(3)].every((name) => x509.checkHost(name) === name))
      assert.isTrue(["127.0.0.1", "::1"].every((name) => x509.checkIP(name) === name))
      assert.deepStrictEqual(fs.readdirSync(directory).toSorted(), ["cert.pem", "key.pem"])
      assert.deepStrictEqual(
        [state, directory, path.join(directory, "cert.pem"), path.join(directory, "key.pem")].map(modeOf),
        [0o700, 0o700, 0o600, 0o600]
      )
      const before = snapshot(directory)
      assert.deepStrictEqual(yield* certificateIn(state), first)
      assert.deepStrictEqual(snapshot(directory), before)
    })
  )

  it.effect(
    "from thirty days before its end it is made anew for the same key, so that the key's pin holds",
    () =>
      Effect.gen(function* () {
        const { state, directory, first } = yield* fresh
        yield* TestClock.setTime(first.notAfter - renewBeforeMs - 1)
        assert.deepStrictEqual(yield* certificateIn(state), first)
        yield* TestClock.setTime(first.notAfter - renewBeforeMs)
        const second = yield* certificateIn(state)
        assert.deepStrictEqual(
          [second.key, second.fingerprints.spki, second.notAfter, second.names],
          [
            first.key,
            first.fingerprints.spki,
            first.notAfter - renewBeforeMs - validBeforeMs + certificateLifeMs,
            first.names
          ]
        )
        assert.notStrictEqual(second.fingerprints.leaf, first.fingerprints.leaf)
        assert.notStrictEqual(x509Of(second).serialNumber, x509Of(first).serialNumber)
        assert.deepStrictEqual(yield* certificateIn(state), second)
        // A gateway that was off for years.
        yield* TestClock.setTime(second.notAfter + certificateLifeMs)
        const third = yield* certificateIn(state)
        assert.strictEqual(third.fingerprints.spki, first.fingerprints.spki)
        assert.deepStrictEqual(fs.readdirSync(directory).toSorted(), ["cert.pem", "key.pem"])
        assert.strictEqual(modeOf(path.join(directory, "cert.pem")), 0o600)
      })
  )

  it.effect("a start that was cut off after the key goes on with that key", () =>
    Effect.gen(function* () {
      const { state, directory, first } = yield* fresh
      fs.unlinkSync(path.join(directory, "cert.pem"))
      const second = yield* certificateIn(state)
      assert.deepStrictEqual([second.key, second.fingerprints.spki], [first.key, first.fingerprints.spki])
    })
  )

  it.effect("who asks at the same time gets the same one", () =>
    Effect.gen(function* () {
      yield* TestClock.setTime(now)
      const state = path.join(yield* temporaryDirectory, "state")
      const [first, ...others] = yield* Effect.all(
        Array.from({ length: 8 }, () => certificateIn(state)),
        { concurrency: "unbounded" }
      )
      for (const other of others) assert.deepStrictEqual(other, first)
      assert.deepStrictEqual(fs.readdirSync(directoryIn(state)).toSorted(), ["cert.pem", "key.pem"])
    })
  )

  const rsa = crypto
    .generateKeyPairSync("rsa", { modulusLength: 2048 })
    .privateKey.export({ type: "pkcs8", format: "pem" })
    .toString()
  const otherKey = crypto
    .generateKeyPairSync("ec", { namedCurve: "P-256" })
    .privateKey.export({ type: "pkcs8", format: "pem" })
    .toString()

  const spoiled: Record<string, readonly [string, string, (key: string, cert: string) => void]> = {
    "the key is cut off": ["key.pem", "malformed", (key) => fs.truncateSync(key, 60)],
    "the key is empty": ["key.pem", "malformed", (key) => fs.truncateSync(key, 0)],
    "the key is of another kind": ["key.pem", "malformed", (key) => fs.writeFileSync(key, rsa)],
    "the key is another": ["cert.pem", "mismatch", (key) => fs.writeFileSync(key, otherKey)],
    "the key is gone": ["key.pem", "incomplete", (key) => fs.unlinkSync(key)],
    "the key is open to others": ["key.pem", "wrong-mode", (key) => fs.chmodSync(key, 0o644)],
    "the key is a link": [
      "key.pem",
      "refused",
      (key) => {
        fs.renameSync(key, `${key}.real`)
        fs.symlinkSync(`${key}.real`, key)
      }
    ],
    "the certificate is cut off": ["cert.pem", "malformed", (_, cert) => fs.truncateSync(cert, 200)],
    "the certificate is open to others": ["cert.pem", "wrong-mode", (_, cert) => fs.chmodSync(cert, 0o666)],
    "the certificate is a directory": [
      "cert.pem",
      "refused",
      (_, cert) => {
        fs.unlinkSync(cert)
        fs.mkdirSync(cert)
      }
    ],
    "the certificate is endless": ["cert.pem", "unreadable", (_, cert) => fs.truncateSync(cert, 1e6)],
    ...(isRoot
      ? {
          "the key is another user's": [
            "key.pem",
            "refused",
            (key: string) => fs.chownSync(key, 12_345, 12_345)
          ] as const
        }
      : {})
  }
  for (const [how, [file, problem, spoil]] of Object.entries(spoiled)) {
    it.effect(`${how}: ${problem}, and everything stays as it is, also when a new one is due`, () =>
      Effect.gen(function* () {
        const { state, directory, first } = yield* fresh
        spoil(path.join(directory, "key.pem"), path.join(directory, "cert.pem"))
        const before = snapshot(directory)
        assert.deepStrictEqual(yield* refusalOf(state), [file, problem])
        yield* TestClock.setTime(first.notAfter)
        assert.deepStrictEqual(yield* refusalOf(state), [file, problem])
        assert.deepStrictEqual(snapshot(directory), before)
      })
    )
  }

  it.effect("no error holds the key, nor what was found in its place", () =>
    Effect.gen(function* () {
      const { state, directory, first } = yield* fresh
      fs.writeFileSync(path.join(directory, "key.pem"), first.key.replace("BEGIN", "BEGUN"))
      const exit = yield* Effect.exit(certificateIn(state))
      const text = [
        exit._tag === "Failure" ? Cause.pretty(exit.cause) : "",
        inspect(exit, { depth: 10 }),
        JSON.stringify(exit)
      ].join("\n")
      assert.include(text, "malformed")
      assert.notInclude(text, first.key.split("\n")[1]!.slice(30))
    })
  )

  /** Files as somebody else keeps them: the last ones under links. */
  const givenIn = (directory: string, made: { readonly cert: string; readonly key: string }) => {
    fs.writeFileSync(path.join(directory, "cert1.pem"), made.cert)
    fs.writeFileSync(path.join(directory, "key1.pem"), made.key, { mode: 0o640 })
    const nodes = { certificate: path.join(directory, "cert.pem"), key: path.join(directory, "key.pem") }
    fs.symlinkSync("cert1.pem", nodes.certificate)
    fs.symlinkSync("key1.pem", nodes.key)
    return nodes
  }

  it.effect("a given one is shown as it is, with its chain, and nothing is made or changed", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const state = path.join(directory, "state")
      const made = yield* Effect.promise(() => makeCertificate({ names: ["gateway.example", "10.0.0.7"] }))
      const chain = yield* Effect.promise(() => makeCertificate({ authority: true, names: ["authority"] }))
      const nodes = givenIn(directory, { ...made, cert: `${made.cert}\n${chain.cert}` })
      yield* TestClock.setTime(Date.now())
      const before = snapshot(directory)
      const found = yield* certificateIn(state, nodes)
      assert.deepStrictEqual(
        [found.cert, found.key, found.names, pinsOf(found.fingerprints)],
        [`${made.cert}\n${chain.cert}`, made.key, ["gateway.example", "10.0.0.7"], made.pins]
      )
      assert.deepStrictEqual(snapshot(directory), before)
      // It is read anew each time, and its end is its owner's business until it has come.
      yield* TestClock.setTime(found.notAfter - 1)
      assert.strictEqual((yield* certificateIn(state, nodes)).notAfter, found.notAfter)
      yield* TestClock.setTime(found.notAfter)
      assert.deepStrictEqual(yield* refusalOf(state, nodes), ["cert.pem", "expired"])
    })
  )

  it.effect("a given one that cannot be used is named with what is wrong", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const made = yield* Effect.promise(() => makeCertificate())
      yield* TestClock.setTime(Date.now())
      const nodes = givenIn(directory, made)
      const [cert, key] = [path.join(directory, "cert1.pem"), path.join(directory, "key1.pem")]
      const locked = crypto
        .createPrivateKey(made.key)
        .export({ type: "pkcs8", format: "pem", cipher: "aes-256-cbc", passphrase: "x" })
      const told = []
      for (const [file, text] of [
        [key, otherKey],
        [key, locked],
        [key, ""],
        [cert, "no certificate"],
        [cert, `${"x".repeat(300_000)}`]
      ] as const) {
        fs.writeFileSync(cert, made.cert)
        fs.writeFileSync(key, made.key)
        fs.writeFileSync(file, text)
        told.push(yield* refusalOf(directory, nodes))
      }
      fs.writeFileSync(cert, made.cert)
      fs.writeFileSync(key, made.key)
      fs.chmodSync(key, 0o644)
      told.push(yield* refusalOf(directory, nodes))
      fs.unlinkSync(key)
      told.push(yield* refusalOf(directory, nodes))
      told.push(yield* refusalOf(directory, { ...nodes, key: directory }))
      told.push(yield* refusalOf(directory, { ...nodes, key: null }))
      assert.deepStrictEqual(told, [
        ["cert.pem", "mismatch"],
        ["key.pem", "malformed"],
        ["key.pem", "malformed"],
        ["cert.pem", "malformed"],
        ["cert.pem", "unreadable"],
        ["key.pem", "wrong-mode"],
        ["key.pem", "missing"],
        [path.basename(directory), "refused"],
        ["nodes.key", "incomplete"]
      ])
      assert.isFalse(fs.existsSync(directoryIn(directory)))
    })
  )

  const connect = (state: string, port: number, pins: ReadonlyArray<TlsPin>) =>
    Effect.gen(function* () {
      const session = yield* (yield* TlsSessionCache.TlsSessionCache).get({
        url: `wss://127.0.0.1:${port}/nodes`,
        serverName: null,
        pins,
        trust: { _tag: "pins" },
        client: null,
        proxy: null
      })
      return yield* session.connect
    }).pipe(
      Effect.provide(
        TlsSessionCache.layer.pipe(
          Layer.provideMerge(PinStore.layer),
          Layer.provide(settingsOf(path.join(state, "client")))
        )
      )
    )

  it.live(
    "a TLS server with it is reached with either pin, by a name that is checked, and with no other pin",
    () =>
      Effect.gen(function* () {
        const state = yield* temporaryDirectory
        const found = yield* certificateIn(state)
        const server = yield* recordingServer({ ...found, leafPin: "", spkiPin: "", pins: [] as never })
        const [leaf, spki] = pinsOf(found.fingerprints)
        for (const pin of [leaf, spki]) {
          const { seen, protocol } = yield* connect(state, server.port, [pin])
          assert.deepStrictEqual([seen, protocol], [found.fingerprints, "TLSv1.3"])
        }
        const stranger = yield* Effect.promise(() => makeCertificate())
        const refused = yield* Effect.flip(connect(state, server.port, stranger.pins))
        assert.strictEqual(refused._tag, "TlsPinMismatch")

        // A client that knows no pins, and checks the name, the dates and what the certificate is for.
        for (const servername of ["localhost", ...found.names.slice(3)]) {
          const authorized = yield* Effect.callback<boolean, Error>((resume) => {
            const socket = tls.connect(
              { host: "127.0.0.1", port: server.port, servername, ca: found.cert },
              () => {
                resume(Effect.succeed(socket.authorized))
                socket.destroy()
              }
            )
            socket.once("error", (error) => resume(Effect.fail(error)))
          })
          assert.isTrue(authorized, servername)
        }
      })
  )

  it.live("after a renewal the key's pin leads to the same gateway, the certificate's does not", () =>
    Effect.gen(function* () {
      const state = yield* temporaryDirectory
      const first = yield* certificateIn(state)
      const [leaf, spki] = pinsOf(first.fingerprints)
      fs.unlinkSync(path.join(directoryIn(state), "cert.pem"))
      const second = yield* certificateIn(state)
      const server = yield* recordingServer({ ...second, leafPin: "", spkiPin: "", pins: [] as never })
      assert.deepStrictEqual((yield* connect(state, server.port, [spki])).seen, second.fingerprints)
      assert.strictEqual((yield* Effect.flip(connect(state, server.port, [leaf])))._tag, "TlsPinMismatch")
    })
  )
})

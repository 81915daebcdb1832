/** GatewayCertificate, live: `<state>/nodes/key.pem` and `cert.pem`, or the two files that the config names. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Semaphore from "effect/Semaphore"
import * as crypto from "node:crypto"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import {
  certificateLifeMs,
  GatewayCertificate,
  GatewayCertificateUnusable,
  isDue,
  namesIn,
  ownNames,
  type ServerCertificate,
  validBeforeMs
} from "../services/GatewayCertificate.ts"
import { Settings } from "../services/Settings.ts"
import { createDurable, readBounded, readPrivateFile, replaceDurable } from "./internal/durableFile.ts"
import { errorCode } from "./internal/errorCode.ts"
import { ensurePrivateDirectory } from "./internal/privateDirectory.ts"
import { fingerprintsOf } from "./internal/tlsDial.ts"

export * from "../services/GatewayCertificate.ts"

/** A chain of certificates takes some kilobytes. */
const maxFileBytes = 256 * 1024
/** A key, a certificate, a look, and one more for another process that was faster. */
const maxSteps = 4

type Problem = GatewayCertificateUnusable["problem"]

const unusable = (file: string, problem: Problem) =>
  Effect.fail(new GatewayCertificateUnusable({ path: file, problem }))

export const make = Effect.gen(function* () {
  const { nodes, paths } = yield* Settings
  const oneAtATime = yield* Semaphore.make(1)
  const certificate =
    nodes.certificate === null && nodes.key === null
      ? own(paths.state)
      : given(nodes.certificate ?? "nodes.certificate", nodes.key ?? "nodes.key")
  return GatewayCertificate.of({
    certificate: oneAtATime.withPermit(certificate).pipe(Effect.withSpan("GatewayCertificate.certificate"))
  })
})

export const layer = Layer.effect(GatewayCertificate, make)

/** What went wrong is not told: the words of a parser may quote what they could not read. */
const attempt = <A>(run: () => A): A | null => {
  try {
    return run()
  } catch {
    return null
  }
}

const keyIn = (pem: string): crypto.KeyObject | null => attempt(() => crypto.createPrivateKey(pem))
const certificateIn = (pem: string): crypto.X509Certificate | null =>
  attempt(() => new crypto.X509Certificate(pem))

const isOfOurKind = (key: crypto.KeyObject): boolean =>
  key.asymmetricKeyType === "ec" && key.asymmetricKeyDetails?.namedCurve === "prime256v1"

const shown = (x509: crypto.X509Certificate, cert: string, key: string): ServerCertificate => ({
  cert,
  key,
  fingerprints: fingerprintsOf(x509.raw),
  notAfter: x509.validToDate.getTime(),
  names: namesIn(x509.subjectAltName)
})

/** Links are followed: whoever renews certificates for others keeps the last one under a link. */
const readGiven = (file: string, isSecret: boolean): Effect.Effect<string, GatewayCertificateUnusable> =>
  Effect.suspend(() => {
    let fd: number
    try {
      fd = fs.openSync(file, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK)
    } catch (error) {
      return unusable(file, errorCode(error) === "ENOENT" ? "missing" : "unreadable")
    }
    try {
      const stats = fs.fstatSync(fd)
      if (!stats.isFile()) return unusable(file, "refused")
      // A group that keeps keys is the machine's own affair.
      if (isSecret && (stats.mode & 0o007) !== 0) return unusable(file, "wrong-mode")
      const text = readBounded(fd, maxFileBytes)
      return text === null ? unusable(file, "unreadable") : Effect.succeed(text)
    } catch {
      return unusable(file, "unreadable")
    } finally {
      fs.closeSync(fd)
    }
  })

const given = Effect.fnUntraced(function* (certificateFile: string, keyFile: string) {
  for (const file of [certificateFile, keyFile])
    if (!path.isAbsolute(file)) return yield* unusable(file, "incomplete")
  const cert = yield* readGiven(certificateFile, false)
  const x509 = certificateIn(cert)
  if (x509 === null) return yield* unusable(certificateFile, "malformed")
  const key = yield* readGiven(keyFile, true)
  const privateKey = keyIn(key)
  if (privateKey === null) return yield* unusable(keyFile, "malformed")
  if (!x509.checkPrivateKey(privateKey)) return yield* unusable(certificateFile, "mismatch")
  const found = shown(x509, cert, key)
  return found.notAfter <= (yield* Clock.currentTimeMillis)
    ? yield* unusable(certificateFile, "expired")
    : found
})

const own = Effect.fnUntraced(function* (state: string) {
  const directory = path.join(state, "nodes")
  const [keyFile, certificateFile] = [path.join(directory, "key.pem"), path.join(directory, "cert.pem")]
  for (const each of [state, directory])
    yield* Effect.mapError(
      ensurePrivateDirectory(each),
      () => new GatewayCertificateUnusable({ path: each, problem: "refused" })
    )
  for (let step = 0; step < maxSteps; step++) {
    const found = yield* ownStep(keyFile, certificateFile)
    if (found !== null) return found
  }
  return yield* unusable(certificateFile, "unwritable")
})

/** What is there and good; null after something was made, which has to be looked at. */
const ownStep = Effect.fnUntraced(function* (keyFile: string, certificateFile: string) {
  // In this order, because they are made in the other: where there is a certificate its key has been there before.
  const cert = yield* readOwn(certificateFile)
  const key = yield* readOwn(keyFile)
  if (key === null) {
    if (cert !== null) return yield* unusable(keyFile, "incomplete")
    return yield* write(keyFile, newKey(), createDurable)
  }
  const privateKey = keyIn(key)
  if (privateKey === null || !isOfOurKind(privateKey)) return yield* unusable(keyFile, "malformed")
  const now = yield* Clock.currentTimeMillis
  if (cert === null)
    return yield* write(certificateFile, yield* newCertificate(privateKey, now), createDurable)
  const x509 = certificateIn(cert)
  if (x509 === null) return yield* unusable(certificateFile, "malformed")
  if (!x509.checkPrivateKey(privateKey)) return yield* unusable(certificateFile, "mismatch")
  const found = shown(x509, cert, key)
  if (!isDue(found.notAfter, now)) return found
  return yield* write(certificateFile, yield* newCertificate(privateKey, now), replaceDurable)
})

const readOwn = (file: string): Effect.Effect<string | null, GatewayCertificateUnusable> =>
  Effect.suspend(() => {
    const found = readPrivateFile(file, maxFileBytes)
    if (found._tag === "problem") return unusable(file, found.problem)
    return Effect.succeed(found._tag === "text" ? found.text : null)
  })

const write = (file: string, text: string, place: (file: string, beside: string, text: string) => unknown) =>
  Effect.try({
    try: () => {
      place(file, `${file}.${crypto.randomUUID()}`, text)
      return null
    },
    catch: () => new GatewayCertificateUnusable({ path: file, problem: "unwritable" })
  })

const newKey = (): string =>
  crypto.generateKeyPairSync("ec", {
    namedCurve: "P-256",
    privateKeyEncoding: { type: "pkcs8", format: "pem" },
    publicKeyEncoding: { type: "spki", format: "pem" }
  }).privateKey

const newCertificate = (key: crypto.KeyObject, now: number): Effect.Effect<string> =>
  Effect.promise(async () => {
    const { selfSigned } = await import("./internal/selfSigned.ts")
    const notBefore = now - validBeforeMs
    return selfSigned({
      key,
      names: ownNames(os.hostname()),
      notBefore,
      notAfter: notBefore + certificateLifeMs
    })
  })

/** What `holdfast up` and `holdfast node run` are given, read before anything is built, as changes to the settings. */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { parseArgs } from "node:util"
import { answerMarginMs, providerTimeoutFor } from "../../services/HookRelay.ts"
import { RunName } from "../../services/Run.ts"
import type { SettingsShape } from "../../services/Settings.ts"
import { parsePin, TlsPin } from "../../services/TlsPin.ts"
import { normalizeTarget, TlsTrust } from "../../services/TlsTarget.ts"

export interface GatewayArguments {
  readonly json: boolean
  readonly change: (settings: SettingsShape) => SettingsShape
}

const usage = `holdfast up [--json] [--listen-nodes HOST:PORT]

Starts the gateway in the foreground and prints one line when it is ready. Stop it with Ctrl-C or \`holdfast down\`.
With --listen-nodes other machines may dial in there; \`holdfast nodes pair\` prints what to start on them.`

const nodeUsage = `holdfast node run [--gateway wss://HOST:PORT/nodes --pin PIN [--pin PIN]... [--code CODE]]
                  [--name NAME] [--cut-off deny|local] [--ca FILE | --trust-on-first-use] [--proxy http://HOST:PORT] [--json]

Starts the gateway of this machine as a node of another one: its runs can be started, seen and stopped from there, and the
tool calls of its agents are decided there. \`holdfast nodes pair\` on that gateway prints the first line to use; what it says
is kept, so that \`holdfast node run\` alone is enough later.
--cut-off says what becomes of a tool call while the gateway cannot be reached: deny (default), or decided by this machine's
own policy.`

/** A mistake in what was typed, in one line. */
export class UsageError extends Schema.TaggedError<UsageError>()("UsageError", { problem: Schema.String }) {
  override get message(): string {
    return this.problem
  }
}

const fail = (line: string, help: string): never => {
  throw new UsageError({ problem: `${line.split("\n")[0]} See: ${help}` })
}

/** `HOST:PORT`, `[ADDRESS]:PORT` or `:PORT`. */
export const parseListen = (text: string): { readonly host: string; readonly port: number } | null => {
  const found = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]\s]*)):(\d{1,5})$/.exec(text)
  const port = Number(found?.[3])
  if (found === null || port > 65_535) return null
  return { host: found[1] ?? (found[2] || "0.0.0.0"), port }
}

/** What a person typed once, without its code. */
const Kept = Schema.Struct({
  version: Schema.Literal(1),
  gateway: Schema.String,
  pins: Schema.Array(TlsPin),
  trust: TlsTrust,
  proxy: Schema.NullOr(Schema.String),
  name: Schema.String,
  cutOff: Schema.Literals(["deny", "local"])
})
const KeptText = Schema.fromJsonString(Kept)
const keptIn = ({ paths }: SettingsShape): string => path.join(paths.state, "node", "gateway.json")

/** A host's own name, as far as a node may be called so. */
export const nameOf = (host: string): string => {
  const name = host
    .replace(/\..*$/, "")
    .replace(/[^A-Za-z0-9._-]+/g, "-")
    .replace(/^[^A-Za-z0-9]+/, "")
    .slice(0, 64)
  return name === "" ? "node" : name
}

const readUp = (args: ReadonlyArray<string>): GatewayArguments => {
  const { values } = parseArgs({
    args: [...args],
    options: {
      json: { type: "boolean" },
      help: { type: "boolean", short: "h" },
      "listen-nodes": { type: "string" }
    }
  })
  if (values.help) {
    process.stdout.write(`${usage}\n`)
    process.exit(0)
  }
  const at = values["listen-nodes"]
  const listen = at === undefined ? null : parseListen(at)
  if (at !== undefined && listen === null)
    return fail(
      `--listen-nodes takes HOST:PORT, and not ${JSON.stringify(at.slice(0, 80))}.`,
      "holdfast up --help"
    )
  return {
    json: values.json ?? false,
    change: (settings) => ({
      ...settings,
      nodes: { ...settings.nodes, listen: listen ?? settings.nodes.listen }
    })
  }
}

type Node = NonNullable<SettingsShape["node"]>

/** What an earlier start was given; null where none was. */
export const readKept = (settings: SettingsShape): Node | null => {
  try {
    const kept = Schema.decodeUnknownSync(KeptText)(fs.readFileSync(keptIn(settings), "utf8"))
    return { ...kept, code: null }
  } catch {
    return null
  }
}

const keep = (settings: SettingsShape, node: Node): void => {
  const { gateway, pins, trust, proxy, name, cutOff } = node
  const file = keptIn(settings)
  fs.mkdirSync(path.dirname(file), { recursive: true, mode: 0o700 })
  const beside = `${file}.${process.pid}`
  fs.writeFileSync(
    beside,
    `${Schema.encodeSync(KeptText)({ version: 1, gateway, pins, trust, proxy, name, cutOff })}\n`,
    { mode: 0o600 }
  )
  fs.renameSync(beside, file)
}

const help = "holdfast node run --help"

/** What nodes ask for, where only a host and a port are given. */
const withPath = (url: string): string =>
  URL.canParse(url) && new URL(url).pathname === "/" && !url.endsWith("/") ? `${url}/nodes` : url

const readNode = (args: ReadonlyArray<string>): GatewayArguments => {
  const { values } = parseArgs({
    args: [...args],
    options: {
      json: { type: "boolean" },
      help: { type: "boolean", short: "h" },
      gateway: { type: "string" },
      pin: { type: "string", multiple: true },
      code: { type: "string" },
      name: { type: "string" },
      "cut-off": { type: "string" },
      ca: { type: "string" },
      "trust-on-first-use": { type: "boolean" },
      proxy: { type: "string" }
    }
  })
  if (values.help) {
    process.stdout.write(`${nodeUsage}\n`)
    process.exit(0)
  }
  // Whoever lists processes from now on does not see the code, nor a proxy's password.
  if (values.code !== undefined || values.proxy !== undefined) process.title = "holdfast node run"
  const { name, proxy } = values
  const cutOff = values["cut-off"]
  if (name !== undefined && !Schema.is(RunName)(name))
    fail("--name takes letters, digits, ., _ and - only, at most 64, a letter or digit first.", help)
  if (cutOff !== undefined && cutOff !== "deny" && cutOff !== "local")
    fail("--cut-off is deny or local.", help)
  const pins = (values.pin ?? []).map((text) =>
    Result.getOrElse(parsePin(text), ({ message }) => fail(message, help))
  )
  const bundle = (file: string): string => {
    try {
      return fs.readFileSync(file, "utf8")
    } catch {
      return fail(`--ca ${JSON.stringify(file)} cannot be read.`, help)
    }
  }
  const trust: TlsTrust =
    values.ca !== undefined
      ? { _tag: "ca", bundle: values.ca === "system" ? null : bundle(values.ca) }
      : values["trust-on-first-use"]
        ? { _tag: "first-use" }
        : { _tag: "pins" }
  const change = (settings: SettingsShape): SettingsShape => {
    const kept = readKept(settings)
    const gateway = values.gateway === undefined ? kept?.gateway : withPath(values.gateway)
    if (gateway === undefined)
      return fail("This machine is no node yet: it needs --gateway, --pin and --code.", help)
    const isAnew = values.gateway !== undefined
    const node: Node = {
      gateway,
      pins:
        isAnew || kept === null
          ? pins
          : [...new Map([...kept.pins, ...pins].map((pin) => [JSON.stringify(pin), pin])).values()],
      trust: isAnew || kept === null ? trust : kept.trust,
      proxy: proxy ?? (isAnew ? null : (kept?.proxy ?? null)),
      name: name ?? kept?.name ?? nameOf(os.hostname()),
      code: values.code ?? null,
      cutOff: (cutOff as Node["cutOff"] | undefined) ?? kept?.cutOff ?? "deny"
    }
    const target = { url: gateway, serverName: null, client: null, ...node }
    Result.getOrElse(normalizeTarget(target), ({ message }) => fail(message, help))
    keep(settings, node)
    const holdMs = providerTimeoutFor(settings.hook.askHoldMs + answerMarginMs)
    return {
      ...settings,
      node,
      // Whether somebody is asked is the gateway's to say.
      hook: { ...settings.hook, decisionTimeoutMs: Math.max(settings.hook.decisionTimeoutMs, holdMs) }
    }
  }
  return { json: values.json ?? false, change }
}

/** Throws a UsageError. */
export const readArguments = (args: ReadonlyArray<string>): GatewayArguments => {
  try {
    return args[0] === "--node" ? readNode(args.slice(1)) : readUp(args)
  } catch (error) {
    if (error instanceof UsageError) throw error
    throw new UsageError({
      problem: `${(error as Error).message.split(/[.\n]/)[0]}. See: holdfast ${args[0] === "--node" ? "node run" : "up"} --help`
    })
  }
}

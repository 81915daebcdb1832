/** A project of somebody else's that has installed the package as it is packed from a copy of the working tree. */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as childProcess from "node:child_process"
import * as fs from "node:fs"
import * as http from "node:http"
import type { AddressInfo } from "node:net"
import * as os from "node:os"
import * as path from "node:path"
import { run } from "./gateway.ts"

export const root = path.resolve(import.meta.dirname, "../..")

export const temporary = (prefix: string) =>
  Effect.acquireRelease(
    Effect.sync(() => fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), prefix)))),
    (directory) =>
      Effect.promise(() => fs.promises.rm(directory, { recursive: true, force: true, maxRetries: 5 }))
  )

/** The machine's own npm on its own Node, not on the repository's; npm's settings stay, what an outer script says goes. */
export const npmEnv: Readonly<Record<string, string>> = Object.fromEntries(
  Object.entries({
    ...process.env,
    PATH: (process.env["PATH"] ?? "")
      .split(":")
      .filter((directory) => !directory.endsWith("node_modules/.bin"))
      .join(":"),
    NO_PROXY: "127.0.0.1"
  }).filter(
    (entry): entry is [string, string] =>
      entry[1] !== undefined && !/^(npm_(?!config_)|npm_config_local_prefix|HOLDFAST_)/.test(entry[0])
  )
)

/** For what a stranger runs: a shell's variables, and a Node that is new enough. */
export const plainEnv = { PATH: `${path.dirname(process.execPath)}:/usr/bin:/bin`, HOME: os.homedir() }

export const npm = Effect.fnUntraced(function* (cwd: string, ...args: ReadonlyArray<string>) {
  const ran = yield* run("npm", [...args, "--no-audit", "--no-fund", "--loglevel=error"], {
    env: npmEnv,
    cwd
  })
  if (ran.code !== 0) return yield* Effect.die(new Error(`npm ${args.join(" ")}: ${ran.stderr}`))
  return ran.stdout
})

/** What git would put in a commit now, and links to the packages that are installed here. */
const copyRepository = Effect.fnUntraced(function* (to: string) {
  const listed = yield* run("git", ["ls-files", "-co", "--exclude-standard", "-z"], {
    env: npmEnv,
    cwd: root
  })
  const files = listed.stdout
    .split("\0")
    .filter((file) => file !== "" && fs.existsSync(path.join(root, file)))
  if (files.length === 0) return yield* Effect.die(new Error(`git lists no files: ${listed.stderr}`))
  for (const file of files) fs.cpSync(path.join(root, file), path.join(to, file))
  fs.mkdirSync(path.join(to, "node_modules"))
  for (const name of fs.readdirSync(path.join(root, "node_modules")))
    if (name !== ".cache")
      fs.symlinkSync(path.join(root, "node_modules", name), path.join(to, "node_modules", name))
})

export const readJson = (file: string) => JSON.parse(fs.readFileSync(file, "utf8"))

export const filesIn = (directory: string): ReadonlyArray<string> =>
  fs
    .readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory())
    .map((entry) => path.relative(directory, path.join(entry.parentPath, entry.name)))

/** As it is installed here. */
export const effectVersion: string = readJson(path.join(root, "package.json")).devDependencies.effect

export class Stranger extends Context.Service<
  Stranger,
  {
    readonly repository: string
    readonly tarball: string
    readonly manifestBefore: Buffer
    /** It has the consumer's files, and has installed the tarball and, as an Effect program would, effect itself. */
    readonly project: string
  }
>()("test/Stranger") {}

export const makeStranger = Effect.gen(function* () {
  const place = yield* temporary("hf-package-")
  const repository = path.join(place, "repository")
  const project = path.join(place, "project")
  yield* copyRepository(repository)
  const manifestBefore = fs.readFileSync(path.join(repository, "package.json"))
  yield* npm(repository, "pack", "--pack-destination", place)
  const tarball = path.join(
    place,
    fs.readdirSync(place).find((name) => name.endsWith(".tgz"))!
  )
  fs.mkdirSync(project)
  fs.writeFileSync(path.join(project, "package.json"), '{"private":true,"type":"module"}')
  fs.cpSync(path.join(root, "test/fixtures/consumer"), project, { recursive: true })
  yield* npm(project, "install", "--prefer-offline", tarball, `effect@${effectVersion}`)
  return { repository, tarball, manifestBefore, project }
})

/** What Node says on its own account. */
export const withoutWarnings = (stderr: string): string =>
  stderr.replace(/.*(Experimental|--trace-warnings).*\n/g, "")

/** A program past its first words; killed with the scope if it still runs. */
export const begin = Effect.fnUntraced(function* (
  command: string,
  args: ReadonlyArray<string>,
  options: { readonly env: Readonly<Record<string, string>>; readonly cwd: string }
) {
  let stderr = ""
  const child = yield* Effect.acquireRelease(
    Effect.sync(() => childProcess.spawn(command, args, { ...options, stdio: ["ignore", "pipe", "pipe"] })),
    (child) => Effect.sync(() => child.kill("SIGKILL"))
  )
  child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text))
  const over = new Promise<{ code: number | null; signal: string | null; stderr: string }>((resolve) =>
    child.once("close", (code, signal) => resolve({ code, signal, stderr }))
  )
  const said = yield* Effect.callback<string>((resume) => {
    child.stdout.once("data", (line: Buffer) => resume(Effect.succeed(line.toString())))
    child.once("close", () => resume(Effect.die(new Error(`${command} did not start: ${stderr}`))))
  })
  return { child, said, ended: Effect.promise(() => over) }
})

type Announced = Readonly<Record<string, unknown>>

/** A registry that knows no package and remembers what it is told. */
export const startRegistry = Effect.gen(function* () {
  const published: Array<{ readonly versions: Readonly<Record<string, Announced>> }> = []
  const server = yield* Effect.acquireRelease(
    Effect.callback<http.Server>((resume) => {
      const server = http.createServer((request, response) => {
        let body = ""
        request.setEncoding("utf8").on("data", (text: string) => (body += text))
        request.once("end", () => {
          if (request.method === "PUT") published.push(JSON.parse(body))
          response.writeHead(request.method === "PUT" ? 201 : 404, { "content-type": "application/json" })
          response.end("{}")
        })
      })
      server.listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
    }),
    (server) =>
      Effect.callback<void>((resume) => {
        server.close(() => resume(Effect.void))
        server.closeAllConnections()
      })
  )
  return { published, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/` }
})

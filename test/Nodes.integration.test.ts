/** A gateway and its node, each as it ships, in a home of its own. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as path from "node:path"
import { holdfast, startGatewayAs } from "./support/gateway.ts"
import { isConnected, seenBy, specOf, startOn, until, world } from "./support/nodeWorld.ts"
import { openRelay, payload } from "./support/relays.ts"

describe("a gateway and its node", () => {
  it.live(
    "a run there is one of ours: started, seen, written to, read and stopped by its id, with its status",
    () =>
      Effect.gen(function* () {
        const { home, there } = yield* world()
        const on = (...args: ReadonlyArray<string>) => holdfast(home, args)
        const out = yield* on(
          "run",
          "--node",
          "box",
          "--no-pty",
          "--",
          "sh",
          "-c",
          "echo $PWD; echo bad >&2; exit 7"
        )
        assert.deepStrictEqual([out.stdout, out.code], [`${there.home}\nbad\n`, 7])
        const { stdout } = yield* on(
          "run",
          "-d",
          "--node",
          "box",
          "--name",
          "far",
          "--",
          "sh",
          "-c",
          "read x; echo got $x; sleep 60"
        )
        const id = stdout.trim()
        yield* on("send", "far", "hello\n")
        yield* until("its answer", on("logs", id), ({ stdout }) => stdout.includes("got hello"))
        assert.match(
          (yield* on("ps")).stdout,
          new RegExp(`^ID +NAME +NODE[^]*${id.slice(0, 14)} +far +box +running`)
        )
        assert.match((yield* holdfast(there, ["ps"])).stdout, /far +running/)
        assert.strictEqual((yield* on("stop", "far")).code, 0)
        assert.match((yield* on("ps", "-a")).stdout, /far +box +exited[^]*stopped by operator/)
        assert.strictEqual((yield* on("logs", "nobody")).code, 4)
        const away = yield* on("run", "--node", "elsewhere", "--no-pty", "--", "true")
        assert.match(away.stderr, /There is no node "elsewhere"/)
        assert.match(
          (yield* holdfast(there, ["status"])).stdout,
          /node of +wss:.* as box: connected; hooks decided by the gateway/
        )
      }),
    120_000
  )

  it.live(
    "it comes back to the next gateway by itself, as the one it was; revoked, it is cut off and stays out",
    () =>
      Effect.gen(function* () {
        const { home, there, gateway, node, listen, code } = yield* world()
        const run = yield* startOn(home, specOf(there, "sleep 600"))
        yield* gateway.end("SIGTERM")
        yield* startGatewayAs(home, ...listen)
        yield* until("it is back", seenBy(home), isConnected)
        assert.deepStrictEqual(yield* seenBy(home), ["box connected"])
        assert.match((yield* holdfast(home, ["ps"])).stdout, new RegExp(run.id.slice(0, 14)))
        yield* holdfast(home, ["nodes", "revoke", "box"])
        yield* until("it gave up", holdfast(there, ["status"]), ({ stdout }) => stdout.includes("gave up"))
        assert.deepStrictEqual(yield* seenBy(home), ["box revoked"])
        // Its run goes on, under its own gateway.
        assert.match((yield* holdfast(there, ["ps"])).stdout, /running/)
        // What it was paired with, and what it is known by, is nowhere but in its file.
        const { privateKey } = JSON.parse(
          fs.readFileSync(path.join(there.home, "state/node/identity.json"), "utf8")
        ) as { readonly privateKey: string }
        const shown = [
          node.stderr(),
          gateway.stderr(),
          fs.readFileSync(`/proc/${node.pid}/cmdline`, "utf8"),
          fs.readFileSync(`/proc/${node.pid}/environ`, "utf8"),
          fs.readFileSync(path.join(there.home, "state/node/gateway.json"), "utf8"),
          (yield* holdfast(there, ["status", "--json"])).stdout,
          (yield* holdfast(home, ["nodes", "--json"])).stdout
        ].join("\n")
        assert.notInclude(shown, code)
        assert.notInclude(shown, privateKey)
      }),
    120_000
  )

  it.live(
    "a hook there is decided by our policy, and by the declared rule while the node is cut off",
    () =>
      Effect.gen(function* () {
        const no = {
          policies: [
            { id: "central", priority: 1, verdict: "deny" as const, command: "touch" },
            { id: "asks", priority: 1, verdict: "ask" as const, command: "publish" }
          ]
        }
        const central = { policy: { default: "allow" as const, ...no } }
        const own = {
          // Of a question that goes to a person there: this machine waits no longer.
          approvals: { holdSeconds: 2 },
          hook: { timeoutSeconds: 3 },
          policy: {
            default: "allow" as const,
            policies: [{ id: "own", priority: 1, verdict: "deny" as const, command: "rm" }]
          }
        }
        for (const words of [[], ["--cut-off", "local"]]) {
          const { home, there, cutter } = yield* world({ central, own, words })
          const decide = yield* openRelay(there)
          const verdicts = () =>
            Effect.forEach(["touch x", "rm x", "ls"], (command) => decide(payload(command)))
          assert.deepStrictEqual(yield* verdicts(), ["central", "allowed", "allowed"])
          // Nobody says so, and whoever is not cut off does not ask its own policy instead.
          assert.match(yield* decide(payload("publish")), /nobody (?:has )?answered/)
          const audit = (yield* holdfast(home, ["audit", "tail", "--json"])).stdout
          assert.match(audit, /"relayId":"n-[0-9a-f]{16}\//)
          yield* cutter.cut
          yield* until("it is away", seenBy(home), (names) => names.includes("box away"))
          assert.match((yield* holdfast(home, ["ps"])).stdout, /the node box is away; its runs go on there/)
          assert.deepStrictEqual(
            yield* verdicts(),
            words.length === 0 ? ["cut off", "cut off", "cut off"] : ["allowed", "own", "allowed"]
          )
          yield* cutter.mend
          yield* until("it is back", seenBy(home), isConnected)
          assert.deepStrictEqual(yield* verdicts(), ["central", "allowed", "allowed"])
        }
      }),
    180_000
  )
})

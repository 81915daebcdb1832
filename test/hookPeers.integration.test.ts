/** A hook client that was stopped, over the built gateway's own socket. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import * as fs from "node:fs"
import * as path from "node:path"
import { cookieVariable } from "../src/services/RunLedger.ts"
import { makePlace, startGateway } from "./support/gateway.ts"
import { lives } from "./support/markedProcesses.ts"

/** Asks, reads nothing, and stops itself once the gateway has hung up. */
const stopping = `
use IO::Socket::UNIX;
my $socket = IO::Socket::UNIX->new(Peer => $ARGV[0]) or exit 1;
print $socket "GET / HTTP/1.1\\r\\nHost: h\\r\\nConnection: close\\r\\n\\r\\n";
$socket->flush;
1 while <$socket>;
$| = 1; print "stops\\n";
kill STOP => $$;
sleep 60;
`

/** Its own session, as Claude Code and Codex give a hook; killed with the scope. */
const stopped = (socket: string, env: Readonly<Record<string, string>>) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const child = spawn("perl", ["-e", stopping, socket], {
        env: { PATH: process.env["PATH"] ?? "", ...env },
        stdio: ["ignore", "pipe", "inherit"],
        detached: true
      })
      await once(child.stdout, "data")
      return child
    }),
    (child: ChildProcess) => Effect.sync(() => child.kill("SIGKILL"))
  )

describe("a hook client that was stopped after its answer", () => {
  it.live("is ended when it is proved to be ours, and no other process is", () =>
    Effect.gen(function* () {
      const place = yield* makePlace()
      yield* startGateway(place)
      const socket = path.join(
        place.runtimeDir,
        fs.readdirSync(place.runtimeDir).find((name) => /^hooks-.*\.sock$/.test(name)) ?? "none"
      )
      // Looked at first, so that it has been judged by the time that the other one is.
      const foreign = yield* stopped(socket, {})
      const ours = yield* stopped(socket, { [cookieVariable]: "r-01J0000000000000ABCDEFGHJK" })
      const [, signal] = yield* Effect.promise(() => once(ours, "exit"))
      assert.strictEqual(signal, "SIGKILL")
      assert.isTrue(lives(foreign))
    })
  )
})

/** The bundled programs' node:tls: the real one, when somebody uses it, and not before. */
import { assert, describe, it } from "@effect/vitest"
import * as fs from "node:fs"
import * as net from "node:net"
import * as path from "node:path"
import * as tls from "node:tls"
import * as lazy from "../src/programs/internal/lazyTls.ts"

const dist = path.resolve(import.meta.dirname, "../dist")

describe("lazyTls", () => {
  it("gives what node:tls gives", () => {
    const context = lazy.createSecureContext({})
    assert.strictEqual(Object.getPrototypeOf(context), Object.getPrototypeOf(tls.createSecureContext({})))
    const Socket = lazy.TLSSocket as unknown as typeof tls.TLSSocket
    const socket = new Socket(new net.Socket())
    assert.instanceOf(socket, tls.TLSSocket)
    socket.destroy()
    assert.instanceOf(lazy.createServer({}), tls.Server)
    const connecting = lazy.connect({ path: "/nowhere/socket" }).on("error", () => undefined)
    assert.instanceOf(connecting, tls.TLSSocket)
    connecting.destroy()
  })

  it("is all that the programs import of it", () => {
    const programs = fs.readdirSync(dist).filter((name) => name.endsWith(".mjs"))
    assert.includeMembers(programs, ["cli.mjs", "gateway.mjs", "keeper.mjs"])
    for (const name of programs)
      assert.notMatch(
        fs.readFileSync(path.join(dist, name), "utf8"),
        /(?:from|import)\s*["']node:tls["']/,
        name
      )
  })
})

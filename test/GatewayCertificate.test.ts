/** GatewayCertificate, the rules: for whom one is made, whom one names, when it is made anew. */
import { assert, describe, it } from "@effect/vitest"
import {
  GatewayCertificateUnusable,
  isDue,
  namesIn,
  ownNames,
  renewBeforeMs
} from "../src/services/GatewayCertificate.ts"

const local = ["localhost", "127.0.0.1", "::1"]

describe("GatewayCertificate, the rules", () => {
  it("is made for this machine, by its name too if that can be a DNS name", () => {
    assert.deepStrictEqual(
      ["Build-01.example", "localhost", "", "bücher", "a b", "x,DNS:evil", "-x", "a..b", "x".repeat(64)].map(
        ownNames
      ),
      [[...local, "build-01.example"], local, local, local, local, local, local, local, local]
    )
  })

  it("the names in a certificate are read as Node writes them", () => {
    assert.deepStrictEqual(
      [
        undefined,
        "DNS:localhost, IP Address:127.0.0.1, IP Address:0:0:0:0:0:0:0:1, DNS:build-01",
        "IP Address:2001:DB8:0:0:0:0:0:1, URI:https://x, DNS:*.example",
        `DNS:"a, DNS:b", DNS:c`
      ].map(namesIn),
      [[], ["localhost", "127.0.0.1", "::1", "build-01"], ["2001:db8::1", "*.example"], [`"a, DNS:b"`, "c"]]
    )
  })

  it("is made anew from thirty days before its end", () => {
    assert.deepStrictEqual(
      [0, renewBeforeMs - 1, renewBeforeMs, renewBeforeMs + 1, 2 * renewBeforeMs].map((left) =>
        isDue(1e12 + left, 1e12)
      ),
      [true, true, true, false, false]
    )
  })

  it("an error names the file and what to do", () => {
    const { message } = new GatewayCertificateUnusable({ path: "/s/nodes/key.pem", problem: "wrong-mode" })
    assert.match(message, /\/s\/nodes\/key\.pem: others may read or write it; .*chmod 600/)
  })
})

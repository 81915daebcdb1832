/** NodeDoctor's verdicts: from what was seen to what it means, each fact alone changed on a way that is all well. */
import { assert, describe, it } from "@effect/vitest"
import * as Result from "effect/Result"
import {
  type Authentication,
  type Expected,
  isBelieved,
  nodeChecks,
  type NodeFacts,
  type SeenCertificate,
  skewOf,
  type Step
} from "../src/services/NodeDoctor.ts"
import { NodeIdentityUnusable } from "../src/services/NodeIdentity.ts"
import type { TlsPin } from "../src/services/TlsPin.ts"
import { TlsPinsUnusable } from "../src/services/TlsSessionCache.ts"
import { TlsTargetInvalid } from "../src/services/TlsTarget.ts"

const dayMs = 86_400_000
const now = Date.parse("2026-06-15T12:00:00Z")
const took = { tookMs: 1.5 }
const done: Step = Result.succeed(took)
const not = (problem: string) => Result.fail(problem)

const seen: SeenCertificate = {
  leaf: "ab".repeat(32),
  spki: `${"A".repeat(43)}=`,
  names: ["gate.example"],
  notBefore: now - dayMs,
  notAfter: now + 100 * dayMs,
  untrusted: "DEPTH_ZERO_SELF_SIGNED_CERT"
}
const leaf: TlsPin = { _tag: "leaf", hex: seen.leaf }
const spki: TlsPin = { _tag: "spki", base64: seen.spki }
const other: TlsPin = { _tag: "leaf", hex: "cd".repeat(32) }

const well: NodeFacts = {
  now,
  place: Result.succeed("gate.example:7443"),
  proxy: null,
  names: Result.succeed({ host: "gate.example", addresses: ["192.0.2.1", "2001:db8::1"], ...took }),
  reached: done,
  tls: { "1.3": done, "1.2": not("EPROTO") },
  certificate: seen,
  expected: { _tag: "pins", source: "given", pins: [spki] },
  upgraded: done,
  challenge: Result.succeed({ skewMs: 0, protocol: { min: 1, max: 1 }, ...took }),
  authentication: { _tag: "welcome", nodeId: "n-0123456789abcdef", name: "box", ...took }
}

const challengeOf = (skewMs: number): NodeFacts["challenge"] =>
  Result.succeed({ skewMs, protocol: { min: 1, max: 1 }, ...took })

const lineOf = (facts: Partial<NodeFacts>, what: string): string => {
  const { status, detail, remedy } = nodeChecks({ ...well, ...facts }).find((check) => check.what === what)!
  return `${status} ${detail}${remedy === null ? "" : ` -> ${remedy}`}`
}

describe("NodeDoctor", () => {
  it("says of a way that is all well what it is like", () => {
    assert.deepStrictEqual(
      nodeChecks(well).map(({ what, status, detail, remedy }) => [what, status, detail, remedy]),
      [
        ["address", "ok", "gate.example:7443", null],
        ["DNS", "ok", "gate.example is 192.0.2.1, 2001:db8::1, 1.5 ms", null],
        ["connection", "ok", "TCP in 1.5 ms", null],
        ["TLS", "ok", "1.3 in 1.5 ms; 1.2 is not spoken", null],
        [
          "certificate",
          "ok",
          `gate.example; 2026-06-14 12:00 to 2026-09-23 12:00; sha256:${seen.leaf}, spki-sha256:${seen.spki}`,
          null
        ],
        ["pins", "ok", "as expected, by those given", null],
        ["WebSocket", "ok", "opened in 1.5 ms", null],
        ["clock skew", "ok", "none to be seen", null],
        ["protocol", "ok", "1 (ours 1, the gateway's 1)", null],
        ["authentication", "ok", "welcome as box (n-0123456789abcdef), 1.5 ms", null]
      ]
    )
  })

  const rows: ReadonlyArray<readonly [Partial<NodeFacts>, string, RegExp]> = [
    [
      { place: Result.fail(new TlsTargetInvalid({ problem: "insecure" })) },
      "address",
      /^fail .*does not begin with wss:/
    ],
    [{ proxy: "proxy:3128" }, "address", /^ok gate.example:7443, through the proxy proxy:3128$/],
    [{ proxy: "proxy:3128" }, "connection", /^ok CONNECT by the proxy in 1.5 ms$/],
    [{ names: not("gate.example is not known here (ENOTFOUND)") }, "DNS", /^fail .*ENOTFOUND.* -> check how/],
    [{ reached: not("ECONNREFUSED") }, "connection", /^fail ECONNREFUSED -> nothing listens there/],
    [{ reached: not("status 407") }, "connection", /-> the proxy wants credentials/],
    [{ reached: not("status 502") }, "connection", /-> the proxy does not lead there/],
    [
      { reached: not("no answer within 5 s") },
      "connection",
      /^fail no answer .* -> something in between takes no packets/
    ],
    [{ tls: { "1.3": done, "1.2": done } }, "TLS", /^warn 1.3 in .*; 1.2 as well, .*bad-signature/],
    [{ tls: { "1.3": not("EPROTO"), "1.2": done } }, "TLS", /^fail 1.2 only, and 1.3 is needed; 1.3: EPROTO/],
    [
      { tls: { "1.3": not("a"), "1.2": not("b") } },
      "TLS",
      /^fail none that both sides speak; 1.3: a; 1.2: b/
    ],
    [{ certificate: null, expected: null }, "certificate", /^fail none was shown/],
    [{ certificate: { ...seen, notAfter: now } }, "certificate", /^warn ends in 0 days/],
    [{ certificate: { ...seen, notAfter: now - 1 } }, "certificate", /^fail expired/],
    [
      { certificate: { ...seen, notBefore: now + 1 } },
      "certificate",
      /^fail not valid yet .* -> set the clocks/
    ],
    [{ certificate: { ...seen, notAfter: now + 30 * dayMs } }, "certificate", /^warn ends in 30 days/],
    [{ certificate: { ...seen, notAfter: now + 30 * dayMs + 1 } }, "certificate", /^ok /],
    [{ certificate: { ...seen, names: [] } }, "certificate", /^ok no names; /],
    [{ expected: { _tag: "none" } }, "pins", /^warn none given .* use --pin spki-sha256:A{43}=$/],
    [
      { expected: { _tag: "pins", source: "kept", pins: [other] } },
      "pins",
      /^fail not by those of the last `holdfast node run`; expected: sha256:(cd){32}; seen: sha256:(ab){32}, spki-sha256:A{43}= -> /
    ],
    [
      { expected: { _tag: "first-use", pins: [other], at: now - dayMs } },
      "pins",
      /^fail not by what was seen first, at 2026-06-14 12:00; /
    ],
    [
      { expected: { _tag: "ca", pins: [] } },
      "pins",
      /^fail not vouched for by the authorities .*SELF_SIGNED/
    ],
    [
      {
        expected: {
          _tag: "unusable",
          error: new TlsPinsUnusable({ path: "/x", problem: "malformed" })
        }
      },
      "pins",
      /^fail .*is not what was written there: \/x/
    ],
    [{ upgraded: not("status 404") }, "WebSocket", /^fail status 404 -> check the path/],
    [{ upgraded: not("status 403") }, "WebSocket", /-> something in between adds an Origin/],
    [{ upgraded: not("status 502") }, "WebSocket", /-> what answers there is something in between/],
    [
      { upgraded: not("it was closed") },
      "WebSocket",
      /-> check that the address leads to a holdfast gateway/
    ],
    [{ challenge: challengeOf(30_000) }, "clock skew", /^ok the gateway's clock is 30.0 s ahead of ours$/],
    [{ challenge: challengeOf(-30_001) }, "clock skew", /^warn the gateway's clock is 30.0 s behind ours/],
    [{ challenge: challengeOf(120_000) }, "clock skew", /^warn /],
    [
      { challenge: challengeOf(120_001) },
      "clock skew",
      /^fail .* -> set the clocks of both machines by NTP$/
    ],
    [{ challenge: not("closed") }, "clock skew", /^fail no challenge came: closed/],
    [
      { challenge: Result.succeed({ skewMs: 0, protocol: { min: 2, max: 4 }, ...took }) },
      "protocol",
      /^fail none in common: ours 1, the gateway's 2 to 4 -> update/
    ]
  ]

  it("says of each thing that is wrong what it is, and what to do", () => {
    for (const [facts, what, line] of rows) assert.match(lineOf(facts, what), line)
  })

  it("says how the gateway took us, or why it was not asked", () => {
    const gateway = "wss://gate.example:7443/nodes"
    const said: ReadonlyArray<readonly [Authentication, RegExp]> = [
      [{ _tag: "unpaired" }, /^warn not paired yet.* -> run `holdfast nodes pair`/],
      [
        { _tag: "refused", reason: "unknown-node" },
        /^fail refused: unknown-node -> The gateway does not know/
      ],
      [{ _tag: "refused", reason: "bad-signature" }, /-> .*Something that ends TLS stands in between/],
      [{ _tag: "lost", problem: "closed" }, /^fail no answer to our greeting: closed/],
      [
        { _tag: "unusable", error: new NodeIdentityUnusable({ path: "/x", problem: "wrong-mode" }) },
        /^fail The identity of this node, \/x, cannot be used/
      ],
      [
        { _tag: "left alone", link: { _tag: "live", gateway, connected: true } },
        /^ok this machine's gateway is connected with it now \(wss:/
      ],
      [
        { _tag: "left alone", link: { _tag: "live", gateway, connected: false } },
        /^warn not tried: .*connecting/
      ],
      [{ _tag: "left alone", link: { _tag: "unknown", problem: "stuck" } }, /^warn not tried, .*: stuck ->/]
    ]
    for (const [authentication, line] of said)
      assert.match(lineOf({ authentication }, "authentication"), line)
  })

  it("says of what comes after a failure where to look", () => {
    const nothing = {
      names: null,
      reached: null,
      tls: null,
      certificate: null,
      expected: null,
      upgraded: null,
      challenge: null,
      authentication: null
    }
    const { names, reached, tls, certificate, expected, upgraded, challenge } = well
    const stops: ReadonlyArray<readonly [Partial<NodeFacts>, string]> = [
      [{ place: Result.fail(new TlsTargetInvalid({ problem: "url" })) }, "see address"],
      [{ names: not("x") }, "see DNS"],
      [{ names, reached: not("x") }, "see connection"],
      [{ names, reached, tls: { "1.3": not("x"), "1.2": not("x") } }, "see TLS"],
      [{ names, reached, tls }, "see certificate"],
      [
        { names, reached, tls, certificate, expected: { _tag: "none" } },
        "nothing is sent to who is not verified, see pins"
      ],
      [{ names, reached, tls, certificate, expected, upgraded: not("x") }, "see WebSocket"],
      [{ names, reached, tls, certificate, expected, upgraded, challenge: not("x") }, "see clock skew"],
      [{ names, reached, tls, certificate, expected, upgraded, challenge }, "see protocol"]
    ]
    for (const [facts, why] of stops)
      assert.strictEqual(lineOf({ ...nothing, ...facts }, "authentication"), `warn not reached: ${why}`)
  })

  it("believes whoever shows what is expected, and nobody where nothing is", () => {
    const vouched = { ...seen, untrusted: null }
    const cases: ReadonlyArray<readonly [Expected, SeenCertificate, boolean]> = [
      [{ _tag: "pins", source: "given", pins: [leaf] }, seen, true],
      [{ _tag: "pins", source: "given", pins: [other, spki] }, seen, true],
      [{ _tag: "pins", source: "kept", pins: [other] }, vouched, false],
      [{ _tag: "first-use", pins: [other, spki], at: now }, seen, true],
      [{ _tag: "ca", pins: [] }, vouched, true],
      [{ _tag: "ca", pins: [] }, seen, false],
      [{ _tag: "ca", pins: [other] }, vouched, false],
      [{ _tag: "ca", pins: [leaf] }, seen, false],
      [{ _tag: "none" }, vouched, false]
    ]
    for (const [expected, shown, is] of cases)
      assert.strictEqual(isBelieved(expected, shown), is, JSON.stringify(expected))
  })

  it("reads another clock between two readings of ours", () => {
    assert.deepStrictEqual([skewOf(100, 90, 110), skewOf(85, 90, 110), skewOf(130, 90, 110)], [0, -5, 20])
  })
})

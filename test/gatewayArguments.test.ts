import { assert, describe, it } from "@effect/vitest"
import { nameOf, parseListen, readArguments, UsageError } from "../src/programs/internal/gatewayArguments.ts"

const problem = (...args: ReadonlyArray<string>): string => {
  try {
    readArguments(args)
    return "none"
  } catch (error) {
    return error instanceof UsageError ? error.message : "another error"
  }
}

describe("the words of up and node run", () => {
  it("an address to listen at is read, or refused with its form", () => {
    assert.deepStrictEqual(["127.0.0.1:7443", "[::1]:0", ":7443", "box.example:65535"].map(parseListen), [
      { host: "127.0.0.1", port: 7443 },
      { host: "::1", port: 0 },
      { host: "0.0.0.0", port: 7443 },
      { host: "box.example", port: 65_535 }
    ])
    assert.deepStrictEqual(
      ["7443", "host", "host:", "host:65536", "::1:7443", "a b:1", "https://h:1"].map(parseListen),
      Array.from({ length: 7 }, () => null)
    )
    assert.match(problem("--listen-nodes", "nowhere"), /^--listen-nodes takes HOST:PORT, .*up --help$/)
  })

  it("a machine's own name becomes one that a node may have", () => {
    assert.deepStrictEqual(["box.example.org", "-my box!", "", "ü"].map(nameOf), [
      "box",
      "my-box-",
      "node",
      "node"
    ])
  })

  it("what is not understood is one line that says where to look", () => {
    assert.deepStrictEqual(
      [
        problem("--node", "--pin", "sha256:12"),
        problem("--node", "--cut-off", "maybe"),
        problem("--node", "--name", "two words"),
        problem("--node", "--ca", "/nowhere/ca.pem"),
        problem("--wrong"),
        problem("--node", "--wrong")
      ].map((line) => /^[^\n]{20,400} See: holdfast (up|node run) --help$/.test(line)),
      Array.from({ length: 6 }, () => true)
    )
  })
})

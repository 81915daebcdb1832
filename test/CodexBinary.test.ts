/** CodexBinary's rules: where a launcher's native program lies, and which versions are too old. */
import { assert, describe, it } from "@effect/vitest"
import { isOlder, minimumVersion, nativeCandidates, parseVersion } from "../src/services/CodexBinary.ts"

const launcher = "/n/node_modules/@openai/codex/bin/codex.js"

describe("nativeCandidates", () => {
  it("looks below the launcher's package, beside it, and inside it, in that order", () => {
    assert.deepStrictEqual(nativeCandidates(launcher, "linux", "x64"), [
      "/n/node_modules/@openai/codex/node_modules/@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin/codex",
      "/n/node_modules/@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin/codex",
      "/n/node_modules/@openai/codex/vendor/x86_64-unknown-linux-musl/bin/codex"
    ])
  })

  it("knows the platforms that Codex is built for", () => {
    const beside = (platform: string, arch: string) => nativeCandidates(launcher, platform, arch)[1]
    assert.deepStrictEqual(
      [beside("linux", "arm64"), beside("darwin", "x64"), beside("darwin", "arm64")],
      [
        "/n/node_modules/@openai/codex-linux-arm64/vendor/aarch64-unknown-linux-musl/bin/codex",
        "/n/node_modules/@openai/codex-darwin-x64/vendor/x86_64-apple-darwin/bin/codex",
        "/n/node_modules/@openai/codex-darwin-arm64/vendor/aarch64-apple-darwin/bin/codex"
      ]
    )
  })

  it("has none for a launcher on a platform that Codex is not built for: the launcher itself is never run", () => {
    assert.deepStrictEqual(nativeCandidates(launcher, "freebsd", "x64"), [])
  })

  it("takes a plain program as it is, on every platform", () => {
    assert.deepStrictEqual(nativeCandidates("/usr/bin/codex", "linux", "x64"), ["/usr/bin/codex"])
    assert.deepStrictEqual(nativeCandidates("/usr/bin/codex", "freebsd", "x64"), ["/usr/bin/codex"])
  })
})

describe("parseVersion", () => {
  it("reads a version line and a user agent, and nothing into anything else", () => {
    assert.deepStrictEqual(
      [
        "codex-cli 0.169.0",
        "codex-cli 0.169.0\n",
        "holdfast/0.170.1 (Linux)",
        "codex-cli v1.2.3-alpha.4",
        "0.169.0",
        "codex-cli 0.169",
        "codex-cli 10.0.0.1",
        "no version",
        ""
      ].map(parseVersion),
      ["0.169.0", "0.169.0", "0.170.1", "1.2.3", "0.169.0", null, null, null, null]
    )
  })
})

describe("isOlder", () => {
  const cases: ReadonlyArray<readonly [string, string, boolean]> = [
    ["0.168.9", "0.169.0", true],
    ["0.169.0", "0.169.0", false],
    ["0.169.1", "0.169.0", false],
    ["0.169.0", "0.169.1", true],
    ["0.99.0", "0.169.0", true],
    ["1.0.0", "0.169.0", false],
    ["0.200.0", "1.0.0", true]
  ]
  for (const [version, than, older] of cases)
    it(`${version} is ${older ? "older" : "not older"} than ${than}`, () => {
      assert.strictEqual(isOlder(version, than), older)
    })

  it("the minimum is not older than itself", () => {
    assert.isFalse(isOlder(minimumVersion, minimumVersion))
  })
})

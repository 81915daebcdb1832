import { assert, describe, it } from "@effect/vitest"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import {
  besideName,
  type BridgeRecord,
  BridgeRecordText,
  BridgeWriteError,
  entryKind,
  isAbandoned,
  isPruneDue,
  leftoverKeptMs,
  maxRecordBytes,
  pruneIntervalMs,
  readRecord,
  recordName,
  sameClaim,
  staleness,
  succeeds,
  unwritableKey
} from "../src/services/BridgeStore.ts"
import { directoryProblem, DirectoryRefused } from "../src/services/PrivateDirectory.ts"

const record: BridgeRecord = {
  version: 1,
  relayId: "relay-7f.A_1",
  generation: 3,
  owner: {
    epoch: "01JD3K5V7W9X1Y3Z5A7B9C1D3E",
    identity: {
      bootId: "6d1a5f0e-2b1c-4c55-9a0e-4b7d3c2f1e00",
      pidNamespace: "pid:[4026531836]",
      pid: 4711,
      startToken: "8812345"
    }
  },
  socketPath: "/run/user/1000/holdfast/hooks-5A7B9C1D3E00.sock",
  token: "0123456789abcdef_-",
  publishedAt: 1_763_680_000_000,
  expiresAt: 1_763_680_120_000
}

const text = `version=1
relayId=relay-7f.A_1
generation=3
epoch=01JD3K5V7W9X1Y3Z5A7B9C1D3E
bootId=6d1a5f0e-2b1c-4c55-9a0e-4b7d3c2f1e00
pidNamespace=pid:[4026531836]
pid=4711
startToken=8812345
socketPath=/run/user/1000/holdfast/hooks-5A7B9C1D3E00.sock
token=0123456789abcdef_-
publishedAt=1763680000000
expiresAt=1763680120000
`

const encode = Schema.encodeOption(BridgeRecordText)
const over = (change: Partial<BridgeRecord>): BridgeRecord => ({ ...record, ...change })
const byIdentity = (change: Partial<BridgeRecord["owner"]["identity"]>): BridgeRecord =>
  over({ owner: { ...record.owner, identity: { ...record.owner.identity, ...change } } })

const problem = (kind: "directory" | "symlink" | "other", uid: number, mode: number) =>
  directoryProblem({ kind, uid, mode }, 1000)

describe("BridgeStore", () => {
  describe("a record's text", () => {
    it("is one fixed line per key, and reads back as the same record", () => {
      assert.deepStrictEqual(encode(record), Option.some(text))
      assert.deepStrictEqual(readRecord(text), record)
    })

    it("carries what macOS says of a process", () => {
      const mac = byIdentity({ pidNamespace: "host", startToken: "Thu Nov  5 23:06:00 2026" })
      assert.deepStrictEqual(Option.map(encode(mac), readRecord), Option.some(mac))
    })

    it("is never read from a part of it", () => {
      for (let length = 0; length < text.length; length++)
        assert.strictEqual(readRecord(text.slice(0, length)), "malformed")
    })

    it("has its lines once, in order, ended by LF, with nothing after them", () => {
      const lines = text.trimEnd().split("\n")
      const broken = {
        "two of a key": [...lines.slice(0, 3), "generation=4", ...lines.slice(3)].join("\n") + "\n",
        "two lines changed": [lines[1], lines[0], ...lines.slice(2)].join("\n") + "\n",
        "one line missing": lines.slice(0, -1).join("\n") + "\n",
        "one line more": `${text}extra=1\n`,
        CRLF: text.replaceAll("\n", "\r\n"),
        "a blank line": `\n${text}`,
        "a leading zero": text.replace("pid=4711", "pid=04711"),
        "a number past 2^53": text.replace("generation=3", "generation=9007199254740993"),
        "a relative socket": text.replace("=/run", "=run"),
        "bytes that are no UTF-8": text.replace("4711", "47\uFFFD1"),
        "version 0": text.replace("version=1", "version=0"),
        JSON: JSON.stringify(record)
      }
      assert.deepStrictEqual(
        Object.entries(broken).map(([name, text]) => [name, readRecord(text)]),
        Object.keys(broken).map((name) => [name, "malformed"])
      )
    })

    it("of a newer version is told from a broken one, whatever else it says", () => {
      assert.strictEqual(readRecord("version=2\nanything\n"), "newer")
      assert.strictEqual(readRecord(text.replace("version=1", "version=17")), "newer")
      assert.strictEqual(readRecord("version=2"), "malformed")
      assert.strictEqual(readRecord("version=2x\n"), "malformed")
    })

    it("never carries a value that a shell reader could misread", () => {
      const evil = [
        "",
        " x",
        "x ",
        "x=",
        "x\ny",
        "x\ry",
        "x\0y",
        "'",
        '"',
        "`id`",
        "$(id)",
        "a\\b",
        "a;b",
        "é"
      ]
      for (const value of evil) {
        assert.strictEqual(unwritableKey(over({ relayId: value })), "relayId")
        assert.strictEqual(unwritableKey(over({ token: value })), "token")
        assert.strictEqual(unwritableKey(byIdentity({ startToken: value })), "startToken")
        assert.deepStrictEqual(encode(over({ token: value })), Option.none())
      }
      for (const path of ["run/x.sock", "/x ", "/x=", "/x\ny", "/$HOME/x", "/it's", "/a\\b", "/é", "/\0"])
        assert.strictEqual(unwritableKey(over({ socketPath: path })), "socketPath")
      assert.strictEqual(unwritableKey(over({ generation: -1 })), "generation")
      assert.strictEqual(unwritableKey(over({ relayId: "x".repeat(129) })), "relayId")
      assert.strictEqual(unwritableKey(over({ socketPath: "/Volumes/My Disk (2)/~a=b,c+d@e%20.sock" })), null)
    })

    it("fits the bytes that are read, however long its values are", () => {
      const longest = over({
        relayId: "r".repeat(128),
        token: "t".repeat(128),
        socketPath: `/${"s".repeat(1023)}`,
        owner: {
          epoch: "e".repeat(128),
          identity: {
            bootId: "b".repeat(128),
            pidNamespace: "n".repeat(1024),
            pid: 1,
            startToken: "s".repeat(1024)
          }
        }
      })
      assert.isBelow(Option.getOrThrow(encode(longest)).length, maxRecordBytes)
    })
  })

  it("a claim is the same whenever it was renewed, and another if anything else differs", () => {
    assert.isTrue(sameClaim(record, over({ expiresAt: 0, publishedAt: 0 })))
    const others = [
      over({ relayId: "other" }),
      over({ generation: 4 }),
      over({ token: "other" }),
      over({ owner: { ...record.owner, epoch: "other" } }),
      byIdentity({ pid: 1 }),
      byIdentity({ startToken: "1" }),
      byIdentity({ bootId: "other" }),
      byIdentity({ pidNamespace: "other" })
    ]
    assert.deepStrictEqual(
      others.map((other) => sameClaim(record, other)),
      others.map(() => false)
    )
  })

  it("of two claims the higher generation succeeds, then the later, then the later gateway", () => {
    const older = over({ generation: 2, publishedAt: record.publishedAt + 1 })
    const earlier = over({ publishedAt: record.publishedAt - 1 })
    const elder = over({ owner: { ...record.owner, epoch: "00" } })
    assert.deepStrictEqual(
      [older, earlier, elder, record].map((other) => [succeeds(record, other), succeeds(other, record)]),
      [
        [true, false],
        [true, false],
        [true, false],
        [false, false]
      ]
    )
  })

  it("a record is stale once it has expired or its owner is dead, and never for being unknown", () => {
    const before = record.expiresAt - 1
    assert.deepStrictEqual(
      (["alive", "unknown", "dead"] as const).map((verdict) => [
        staleness(record, before, verdict),
        staleness(record, record.expiresAt, verdict)
      ]),
      [
        [null, "expired"],
        [null, "expired"],
        ["owner-dead", "expired"]
      ]
    )
  })

  it("names of records and leftovers are told from everything else", () => {
    const name = recordName("0123456789abcdef".repeat(4))
    assert.strictEqual(name, "0123456789abcdef0123456789abcdef")
    const names = [
      name,
      besideName(name, record.owner.epoch, 12, "new"),
      besideName(name, record.owner.epoch, 12, "gone"),
      `${name}.json`,
      name.toUpperCase(),
      name.slice(1),
      `${name}.epoch.new`,
      "README",
      ".."
    ]
    assert.deepStrictEqual(names.map(entryKind), [
      "record",
      "leftover",
      "leftover",
      "foreign",
      "foreign",
      "foreign",
      "foreign",
      "foreign",
      "foreign"
    ])
  })

  it("what is half-written stays for a while, and a prune is due at intervals or when the clock went back", () => {
    assert.deepStrictEqual(
      [isAbandoned(0, leftoverKeptMs), isAbandoned(0, leftoverKeptMs + 1), isAbandoned(10, 0)],
      [false, true, false]
    )
    assert.deepStrictEqual(
      [
        isPruneDue(null, 0),
        isPruneDue(5, 4 + pruneIntervalMs),
        isPruneDue(5, 5 + pruneIntervalMs),
        isPruneDue(5, 4)
      ],
      [true, false, true, true]
    )
  })

  it("an error says what to do", () => {
    assert.strictEqual(
      new BridgeWriteError({ path: "/b/r", cause: null }).message,
      "The bridge record /b/r cannot be written. Check that the disk is not full or read-only."
    )
    assert.strictEqual(
      new BridgeWriteError({ path: "/b/r", key: "socketPath", cause: null }).message,
      "The bridge record /b/r cannot carry this socketPath: it is empty, too long, or has characters that a shell could misread. Set HOLDFAST_RUNTIME_DIR to a plain path."
    )
    assert.strictEqual(
      new DirectoryRefused({ path: "/b", problem: "unusable", code: "EROFS" }).message,
      "The directory /b is refused: it cannot be created or read; check the disk and the directories above it (EROFS). To use another one set HOLDFAST_HOME, or HOLDFAST_RUNTIME_DIR for the runtime directory alone."
    )
  })

  it("a directory is private when it is one, ours, and 0700 to the bit", () => {
    assert.deepStrictEqual(
      [
        problem("directory", 1000, 0o700),
        problem("directory", 1000, 0o2700),
        problem("directory", 1000, 0o500),
        problem("directory", 1000, 0o711),
        problem("directory", 0, 0o700),
        problem("symlink", 1000, 0o700),
        problem("other", 1000, 0o700)
      ],
      [null, "wrong-mode", "wrong-mode", "wrong-mode", "foreign-owner", "symlink", "not-a-directory"]
    )
  })
})

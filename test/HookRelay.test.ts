/** HookRelay and HookWire: the pure rules of a hook's command, its deadline, and what is said when there is no answer. */
import { assert, describe, it } from "@effect/vitest"
import { maxRecordBytes as writtenRecordBytes } from "../src/services/BridgeStore.ts"
import { clientDeadlineMs, hookCommand, providerTimeoutFor, shellQuote } from "../src/services/HookRelay.ts"
import {
  causeOfStatus,
  denyText,
  explainCause,
  failureAnswer,
  failureCauses,
  hookEventNames,
  hookPath,
  isAnswerBody,
  maxPayloadBytes,
  maxRecordBytes,
  statusOfCause
} from "../src/services/HookWire.ts"
import { resolve } from "../src/services/Settings.ts"
import * as Result from "effect/Result"

describe("HookWire", () => {
  it("turns each status back into the cause it stands for, and any other into malformed", () => {
    for (const [cause, status] of Object.entries(statusOfCause))
      assert.strictEqual(causeOfStatus(status), cause)
    assert.deepStrictEqual([100, 201, 302, 401, 500].map(causeOfStatus), Array(5).fill("malformed"))
  })

  it("explains every cause in words that need no escaping in JSON or a shell's double quotes", () => {
    assert.sameMembers(Object.keys(explainCause), [...failureCauses])
    for (const text of Object.values(explainCause)) assert.match(text, /^[ -~]+$/)
    for (const text of Object.values(explainCause)) assert.notMatch(text, /["\\$!]/)
  })

  it("refuses a closed event in a form its provider honours, and lets an open one pass in silence", () => {
    for (const event of hookEventNames)
      for (const cause of failureCauses) {
        const reason = `Holdfast: ${explainCause[cause]} [${cause}]`
        assert.deepStrictEqual(failureAnswer(event, "open", cause), { stdout: "", stderr: "", exitCode: 0 })
        const closed = failureAnswer(event, "closed", cause)
        const expected =
          event === "pre_tool_use"
            ? {
                stdout: `{"hookSpecificOutput":{"hookEventName":"PreToolUse","permissionDecision":"deny","permissionDecisionReason":"${reason}"}}`,
                stderr: "",
                exitCode: 0
              }
            : event === "permission_request"
              ? {
                  stdout: `{"hookSpecificOutput":{"hookEventName":"PermissionRequest","decision":{"behavior":"deny","message":"${reason}"}}}`,
                  stderr: "",
                  exitCode: 0
                }
              : { stdout: "", stderr: `${reason}\n`, exitCode: 2 }
        assert.deepStrictEqual(closed as typeof expected, expected)
      }
  })

  it("never denies without a reason", () => {
    for (const event of ["pre_tool_use", "permission_request"] as const)
      for (const reason of ["", "  \n"]) assert.include(denyText(event, reason), "Holdfast: refused")
  })

  it("passes on an object or nothing, and no text around it", () => {
    const bodies = ["", "{}", '{"a":{}}\n', "allow", "[]", " {}", "{}x", "log\n{}", "{}\n\n", "\n"]
    assert.deepStrictEqual(bodies.filter(isAnswerBody), ["", "{}", '{"a":{}}\n'])
  })

  it("agrees with its neighbours on the limits they share", () => {
    const settings = Result.getOrThrow(
      resolve({ env: {}, uid: 0, homeDirectory: "/h", tempDirectory: "/t", clientDirectory: "/c" }, null)
    )
    assert.deepStrictEqual(
      [maxRecordBytes, maxPayloadBytes],
      [writtenRecordBytes, settings.hook.maxBodyBytes]
    )
    assert.strictEqual(hookPath("stop"), "/v1/hooks/stop")
  })
})

describe("HookRelay", () => {
  it("answers before the provider's timeout: a fifth earlier, and half a second at least", () => {
    assert.deepStrictEqual(
      [1000, 2000, 3000, 5000, 30_000, 600_000].map(clientDeadlineMs),
      [500, 1500, 2400, 4000, 24_000, 480_000]
    )
  })

  it("what a provider has to give lets a client wait as long as it was asked for", () => {
    const waits = [500, 1_000, 30_000, 300_500]
    assert.deepStrictEqual(
      waits.filter((waitMs) => clientDeadlineMs(providerTimeoutFor(waitMs)) < waitMs),
      []
    )
  })

  it("quotes whatever a path may hold", () => {
    assert.strictEqual(shellQuote("it's $HOME `x`"), String.raw`'it'\''s $HOME ${"`x`"}'`)
  })

  it("wraps the client so that one that cannot start falls in the declared direction", () => {
    const options = {
      client: { kind: "perl", argv: ["/usr/bin/perl", "/opt/hold fast/hookRelay.pl"] },
      recordPath: "/run/b/0123",
      event: "pre_tool_use",
      providerTimeoutMs: 30_000
    } as const
    const call = `'/usr/bin/perl' '/opt/hold fast/hookRelay.pl' '/run/b/0123' 'pre_tool_use'`
    assert.deepStrictEqual(
      (["closed", "open"] as const).map((direction) => hookCommand({ ...options, direction })),
      [
        `${call} 'closed' '24000' || { echo "Holdfast: the hook client ended with status $?, so this is refused" >&2; exit 2; }`,
        `${call} 'open' '24000' || exit 0`
      ]
    )
    assert.include(
      hookCommand({ ...options, direction: "closed", except: ["timeout", "refused"] }),
      `${call} 'closed:timeout:refused' '24000' || { echo`
    )
  })
})

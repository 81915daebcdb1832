/** HookClients: how each client is started, and what is said when one cannot be. */
import { assert, describe, it } from "@effect/vitest"
import { argvOf, HookClientUnusable, preference } from "../src/services/HookClients.ts"

describe("HookClients", () => {
  it("starts each client by absolute paths alone", () => {
    assert.deepStrictEqual(
      preference.map((kind) => argvOf(kind, `/usr/bin/${kind}`, "/opt/holdfast")),
      [
        ["/usr/bin/perl", "/opt/holdfast/hookRelay.pl"],
        ["/bin/sh", "/opt/holdfast/hookRelay.sh", "nc", "/usr/bin/nc"],
        ["/bin/sh", "/opt/holdfast/hookRelay.sh", "curl", "/usr/bin/curl"],
        ["/usr/bin/node", "/opt/holdfast/hookRelay.cjs"]
      ]
    )
  })

  it("says what to do about a client that cannot be used", () => {
    const messages = (["not-found", "does-not-work", "file-missing"] as const).map(
      (problem) => new HookClientUnusable({ kind: "curl", problem }).message
    )
    assert.match(messages[0]!, /curl is not on the PATH\. Install it, or .*HOLDFAST_HOOK_CLIENT/)
    assert.match(messages[1]!, /the curl on the PATH cannot .*Install another, or .*HOLDFAST_HOOK_CLIENT/)
    assert.match(
      messages[2]!,
      /hookRelay\.sh is missing\. Install holdfast again; in a clone, run: npm run build/
    )
  })
})

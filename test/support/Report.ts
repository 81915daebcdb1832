/** What an operator is shown, with nothing unusual about it. */
import type { LeaseInfo } from "../../src/services/AppServerLease.ts"
import { unproven } from "../../src/services/Guard.ts"
import type { GatewayStatus } from "../../src/services/Control.ts"
import { identity } from "../../src/testing/ProcessIdentity.ts"

export const lease = (over: Partial<LeaseInfo> = {}): LeaseInfo => ({
  key: "k1",
  codexHome: "/h/codex",
  state: "Ready",
  generation: 1,
  origin: "spawned",
  pid: 4711,
  version: "0.169.0",
  borrowers: [],
  waiting: 0,
  faults: 0,
  retired: null,
  circuit: null,
  ...over
})

export const status = (over: Partial<GatewayStatus> = {}): GatewayStatus => ({
  version: "0.1.0",
  epoch: "E",
  owner: identity(1),
  startedAt: 0,
  upMs: 5_000,
  rssBytes: 64 * 1024 * 1024,
  state: "/s",
  runtime: "/r",
  mark: null,
  unmarked: null,
  swept: [],
  keeper: {
    state: "none",
    keeperId: null,
    identity: null,
    mark: null,
    adopted: false,
    startedAt: null,
    losses: 0
  },
  reconciled: [],
  policies: [],
  guard: unproven,
  hookClient: "perl",
  relays: 0,
  leases: [],
  ...over
})

/**
 * `holdfast/testing`: the fakes and levers that the tests of this repository use, for the tests of whoever embeds it. Each is a
 * layer that provides a service beside the levers that move it; none needs a gateway, a process, a file or real time.
 */
export * as FakeAppServerProcess from "./AppServerProcess.ts"
export * as FakeApprovals from "./Approvals.ts"
export * as FakeAuditLog from "./AuditLog.ts"
export * as FakeBridgeStore from "./BridgeStore.ts"
export * as FakeCodexAuth from "./CodexAuth.ts"
export * as FakeDatabase from "./Database.ts"
export * as FakeEpoch from "./Epoch.ts"
export * as FakeHookClients from "./HookClients.ts"
export * as FakeHookEvent from "./HookEvent.ts"
export * as FakeInstanceMark from "./InstanceMark.ts"
export * as FakePolicy from "./Policy.ts"
export * as FakeProcessIdentity from "./ProcessIdentity.ts"
export * as FakePtySupervisor from "./PtySupervisor.ts"
export * as FakeRelayRegistry from "./RelayRegistry.ts"
export * as FakeRunLog from "./RunLog.ts"
export * as VirtualTime from "./VirtualTime.ts"

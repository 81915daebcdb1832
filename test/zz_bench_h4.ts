import { resolve } from "../src/services/Settings.ts"
import * as Result from "effect/Result"
const base = { uid: 1000, homeDirectory: "/home/u", tempDirectory: "/tmp", clientDirectory: "/dist" }
const r = (text: string | null, env: Record<string,string> = {}) => { const x = resolve({ ...base, env }, text); console.log(Result.isFailure(x) ? x.failure.message : "ok") }
r('{"codx":{}}'); r('{"codex":{"comand":"x"}}'); r('{'); r('[]'); r('"x"'); r('null'); r('{"codex":{"command":5}}'); r('{"codex":{"command":"sk-secretsecret", "home":""}}')
r('{"hook":{"timeoutSeconds":1}}'); r('{"hook":{"timeoutSeconds":"30"}}'); r('{"hook":{"client":"bash"}}')
r('{"policy":{"default":"allow","policies":[{"id":"x","verdit":"deny"}]}}')
r('{"policy":{"default":"allow","policies":[{"id":"x","verdict":"deny","command":5}, {"module":"a","timeoutMs":0}]}}')
r('{"policy":{"default":"maybe","policies":[]}}')
r('{"directions":{"pre_tool_us":{"timeout":"open"}}}'); r('{"directions":{"pre_tool_use":{"tmeout":"open"}}}'); r('{"directions":{"pre_tool_use":{"timeout":"opn"}}}')
r('{"codx":{},"hok":{}, "logLevel":"x"}')
r('{"__proto__":{"logLevel":"x"}}')
r(null, { HOLDFAST_HOOK_TIMEOUT_SECONDS: "abc" }); r(null, { HOLDFAST_HOOK_TIMEOUT_SECONDS: "1e3" }); r(null, { HOLDFAST_HOOK_TIMEOUT_SECONDS: " " })
r(null, { HOLDFAST_POLICY: "{" }); r(null, { HOLDFAST_POLICY: "{}" }); r(null, { HOLDFAST_CODEX_SANDBOX: "none" }); r(null, { HOLDFAST_CODEX_PASS_ENV: "A,B" }); r(null, { HOLDFAST_LOG_LEVEL: "loud" });r(null, { HOLDFAST_LOG_LEVEL: "" })
r('{"codex":null}', { HOLDFAST_CODEX: "x" })
r('{"hook":{}}\n'); r(''); r('\ufeff{}')

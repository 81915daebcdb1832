/** What an agent and the audit log are told about an approval. */
import type { Approval, Approver } from "../../services/Approvals.ts"

const noteOf = (note: string | null): string => (note === null ? "" : `: ${note}`)
const whoOf = ({ uid, pid }: Approver): string => `uid ${uid} (pid ${pid})`

export const allowedBecause = ({ id, state, policy }: Approval): string => {
  if (state._tag !== "granted") return `approval ${id}`
  const scope = { once: "once", session: "for this session", until: "for a time" }[state.scope._tag]
  return `${policy} asked, and ${whoOf(state.by)} allowed it ${scope} (approval ${id})${noteOf(state.note)}`
}

export const refusedBecause = ({ id, state, policy }: Approval): string => {
  switch (state._tag) {
    case "denied":
      return `${policy} asked, and ${whoOf(state.by)} denied it (approval ${id})${noteOf(state.note)}`
    case "expired":
      return `${policy} asked, and nobody answered the approval ${id} in time`
    case "void":
      return `the approval ${id} of this call holds no more: ${state.why}`
    case "granted":
      return `the approval ${id} was for one call, and another has used it`
    case "pending":
      return `the approval ${id} waits for too many calls at once`
  }
}

export const changedSince = ({ id }: Approval, what: ReadonlyArray<string>): string =>
  `this call was approved (${id}), but ${what.join(", ")} changed since; make the call again to ask again`

export const stillOpen = ({ id, reason }: Approval): string =>
  `${reason}: nobody has answered the approval ${id} yet (\`holdfast approvals approve ${id}\`); once it is allowed, the same call may be made again`

export const tooMany = (what: string): string =>
  `this needs an approval, and ${what}; wait until they are answered`

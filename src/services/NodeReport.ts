/** NodeReport: how nodes and pairing read in a terminal. */
import type { PairingOffer } from "./NodeControl.ts"
import type { NodeInfo } from "./NodeStore.ts"
import type { NodeStatus } from "./Nodes.ts"
import { table } from "./Report.ts"
import { formatAge } from "./SupervisionTree.ts"

const ago = (at: number | null, now: number): string =>
  at === null ? "never" : `${formatAge(Math.max(0, now - at))} ago`

const stateOf = ({ connection, revokedAt }: NodeStatus, now: number): string =>
  revokedAt !== null
    ? `revoked ${ago(revokedAt, now)}`
    : connection === null
      ? "away"
      : `${connection.health === "healthy" ? "connected" : "unresponsive"} for ${formatAge(Math.max(0, now - connection.since))}`

export const nodes = (all: ReadonlyArray<NodeStatus>, now: number): string =>
  all.length === 0
    ? "no machine is paired; `holdfast nodes pair` shows what to start on one"
    : table([
        ["NAME", "ID", "STATE", "PAIRED", "LAST SEEN"],
        ...all.map((node) => [
          node.name,
          node.nodeId,
          stateOf(node, now),
          ago(node.pairedAt, now),
          node.connection === null ? ago(node.lastSeenAt, now) : "now"
        ])
      ])

/** One line to paste on the other machine, and what it is. */
export const pairing = ({ url, pins, code, expiresAt }: PairingOffer): string =>
  [
    `holdfast node run --gateway ${url} --pin ${pins.at(-1) ?? ""} --code ${code}`,
    `Good for one machine, until ${new Date(expiresAt).toISOString()}.`
  ].join("\n")

export const revoked = ({ name, nodeId }: NodeInfo): string =>
  `revoked ${name} (${nodeId}); its runs go on there, under its own gateway`

export const renamed = ({ name, nodeId }: NodeInfo): string => `${nodeId} is called ${name} now`

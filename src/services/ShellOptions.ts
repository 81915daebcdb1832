/** ShellOptions: programs that run what one of their options holds, and ssh, which runs what stands behind its host. */
import {
  afterOptions,
  argumentsOf,
  type Follow,
  joined,
  type Options,
  scriptOf,
  type ShellCommand
} from "./ShellCommand.ts"
import type { Text } from "./ShellPath.ts"

/** Options of other programs that hold a command. */
const commandValues: Readonly<
  Record<string, { readonly options: Options; readonly names: ReadonlyArray<string> }>
> = {
  tar: {
    options: {
      short: "fCITXgKLbHVF",
      long: ["use-compress-program", "to-command", "info-script", "new-volume-script", "rsh-command"]
    },
    names: ["I", "F", "use-compress-program", "to-command", "info-script", "new-volume-script", "rsh-command"]
  },
  rsync: { options: { short: "efBTM", long: ["rsh", "rsync-path"] }, names: ["e", "rsh", "rsync-path"] },
  scp: { options: { short: "ScFiJloPX" }, names: ["S"] },
  split: { options: { short: "abCnl", long: ["filter"] }, names: ["filter"] },
  sort: { options: { short: "kSotT", long: ["compress-program"] }, names: ["compress-program"] },
  man: { options: { short: "PrMLSCeEpR", long: ["pager"] }, names: ["P", "pager"] },
  gdb: { options: { short: "", long: ["ex", "eval-command"] }, names: ["ex", "eval-command"] }
}

const commandOptions: Readonly<Record<string, RegExp>> = {
  tar: /^(?:--checkpoint-action=)?exec=([^]*)$/
}

const sshOptions: Options = { short: "BbcDEeFIiJLlmOopQRSWw" }

export const followSsh = (from: ShellCommand): ReadonlyArray<Follow> => {
  const words = from.words.slice(1)
  const proxies = argumentsOf(words, sshOptions)
    .all("o")
    .flatMap((set) => {
      const found = set?.match(/^(?:ProxyCommand|LocalCommand|KnownHostsCommand)\s*[= ]\s*([^]*)$/i)
      return found ? [scriptOf(found[1]!)] : []
    })
  // The host may be unknown; what runs there is what comes behind it, and options may stand there too.
  const host = words.findIndex(
    (word, index) => word === null || (!word.startsWith("-") && !takesValue(words[index - 1]))
  )
  const rest = host < 0 ? [] : (afterOptions(words.slice(host + 1), sshOptions) ?? words.slice(host + 1))
  if (rest.length > 0) return [...proxies, scriptOf(joined(rest))]
  return from.input._tag === "text" && host >= 0 ? [...proxies, scriptOf(from.input.text)] : proxies
}

const takesValue = (word: Text | undefined): boolean =>
  typeof word === "string" && /^-\w*[BbcDEeFIiJLlmOopQRSWw]$/.test(word)

export const followOption = (from: ShellCommand, name: string): ReadonlyArray<Follow> => {
  const held = Object.hasOwn(commandValues, name) ? commandValues[name] : undefined
  const words = from.words.slice(1)
  const values = held === undefined ? [] : argumentsOf(words, held.options).all(...held.names)
  const pattern = Object.hasOwn(commandOptions, name) ? commandOptions[name] : undefined
  const matched = pattern === undefined ? [] : words.flatMap((word) => word?.match(pattern)?.[1] ?? [])
  return [...values, ...matched].map((text) => scriptOf(text))
}

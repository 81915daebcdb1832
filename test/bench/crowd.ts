/**
 * Bare app-servers in numbers, and their memory: one with many threads, and one for each thread. In a process of its own,
 * so that whoever starts them is small.
 */
import * as fs from "node:fs"
import { type BareCodex, type Launch, startBare, startThread } from "./bareCodex.ts"
import { serve } from "./serve.ts"

/** Starts at once: more than there are cores only wait for each other. */
const startsAtOnce = 4
/** What a start and its first thread leave to do is done. */
const settleMs = 1000

const running = new Set<BareCodex>()

const start = async (launch: Launch): Promise<BareCodex> => {
  const bare = await startBare(launch)
  running.add(bare)
  return bare
}

const killAll = async (): Promise<void> => {
  await Promise.all([...running].map(({ kill }) => kill()))
  running.clear()
}

const settled = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, settleMs))

const memoryMb = ({ pid }: BareCodex, name: "Rss" | "Pss"): number => {
  const text = fs.readFileSync(`/proc/${pid}/smaps_rollup`, "utf8")
  return Number(new RegExp(`^${name}:\\s+(\\d+) kB`, "m").exec(text)?.[1]) / 1024
}

/** Of all that run; a page that several share counts once. */
const sharedMb = (): number => [...running].reduce((sum, bare) => sum + memoryMb(bare, "Pss"), 0)

interface Crowd {
  readonly launch: Launch
  readonly cwd: string
  readonly provider: string
  readonly count: number
}

const handlers = {
  /** One child's memory with its first thread and with `count` of them, none of which does anything. */
  threads: async ({ launch, cwd, provider, count }: Crowd) => {
    const bare = await start(launch)
    await startThread(bare, cwd, provider)
    await settled()
    const first = memoryMb(bare, "Rss")
    for (let thread = 1; thread < count; thread++) await startThread(bare, cwd, provider)
    await settled()
    const all = memoryMb(bare, "Rss")
    await killAll()
    return { first, all }
  },

  /** `count` children with an idle thread each, their memory, and then a turn for every one of them. */
  separate: async ({ launch, cwd, provider, count, prompt }: Crowd & { readonly prompt: string }) => {
    const threads: Array<{ readonly bare: BareCodex; readonly threadId: string }> = []
    let left = count
    const starting = Array.from({ length: startsAtOnce }, async () => {
      while (left-- > 0) {
        const bare = await start(launch)
        threads.push({ bare, threadId: await startThread(bare, cwd, provider) })
      }
    })
    await Promise.all(starting)
    await settled()
    const idleMb = sharedMb()
    const input = [{ type: "text", text: prompt, text_elements: [] }]
    await Promise.all(threads.map(({ bare, threadId }) => bare.request("turn/start", { threadId, input })))
    return { idleMb, threadIds: threads.map(({ threadId }) => threadId) }
  },

  sharedMb,

  end: killAll
}

export type CrowdOfCodex = typeof handlers

serve(handlers, () => {
  for (const { pid } of running) process.kill(pid, "SIGKILL")
})

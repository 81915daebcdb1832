/**
 * Every vice that gets away from other supervisors, for every way in which a run can end: nobody is left, in time, as told
 * from outside; and a bystander of the same user has not heard a thing.
 */
import { assert, describe, layer as withLayer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as path from "node:path"
import { type Left, layer, Outside, type Place, proof, tortures, untilNobody } from "../support/outside.ts"
import type { DrivenRun, Listed } from "../support/runDriver.ts"

/** Every vice there is. */
const vices: ReadonlyArray<string> = fs.readdirSync(tortures)

/** Between asking and killing. */
export const killGraceMs = 300
/** Of the promise: nobody is left within the grace and this. */
const sweepMs = 1_000
/** Alone each of them is as fast as all others; together they keep every processor busy, and the sweep waits for them. */
const crowdedMs = 2_000
const soak = Boolean(process.env["HOLDFAST_SOAK"])

/** Somebody who is left for so long stays. */
const hangMs = 30_000

export interface Ended {
  /** Of `performance.now()`: when the grace began. */
  readonly at: number
  /** Those that were started, in the words of whoever kept them; null where nobody can be asked any more. */
  readonly told: ReadonlyArray<Listed> | null
}

/** One life of a world with its runs. */
interface Zoo {
  /** Returns when each has printed `up` or is over. */
  readonly start: (runs: ReadonlyArray<DrivenRun>) => Effect.Effect<unknown>
  /** Waits until the ending begins, where that comes by itself. */
  readonly due: Effect.Effect<void>
  readonly end: Effect.Effect<Ended>
  /** Without those that are to live on, the gateway and the keeper. */
  readonly withoutStaff: (left: ReadonlyArray<Left>) => ReadonlyArray<Left>
  /** Who does the ending, to know how long the machine kept a processor from it. */
  readonly ender: () => number
}

export interface Ending {
  readonly open: (place: Place) => Effect.Effect<Zoo, never, Scope.Scope | Outside>
  /** Beside the grace and the sweep. */
  readonly extraMs: number
  /** What the world says about a run that lived until its ending; null for a world that says nothing. */
  readonly told: string | null
}

/** Whose leader leaves by itself, so that the run ends before its ending. */
const leavers = new Set([
  "floods-and-leaves.pl",
  "keeps-the-terminal-open.pl",
  "leader-exits-leaving-a-daemon.pl",
  "mcp-leaves-a-browser.pl"
])

/**
 * Who ends with its terminal. When that hangs up because its keeper was killed, nobody may be left to be found, and nothing
 * is said to be proven.
 */
const hangsUp = new Set(["plain.sh"])

/** What may be said of one that lived until its ending. */
const mayBeSaid = (name: string, told: string | null): ReadonlyArray<string | null> =>
  hangsUp.has(name) && /^(keeper|both)-lost/.test(told ?? "") ? [told, told!.replace(", proven", "")] : [told]

/** Those that keep the processors busy themselves. */
const busy = new Set([
  "bounded-fork-bomb.pl",
  "hopper-at-full-speed.pl",
  "hopper-setsid.pl",
  "hopper.pl",
  "hot-forker.pl",
  "mutual-respawners.pl"
])

/** In a line: `stopped, proven`. */
const line = ({ state, reason, lost, extinction }: Listed): string => {
  const left = extinction?.survivors.length ? `, leaving ${extinction.survivors.join(" ")}` : ""
  const proof = extinction === null ? "" : extinction.proven ? ", proven" : ", not proven"
  return `${reason ?? lost ?? state}${proof}${left}`
}

/** Writes every signal it hears down, and lives a minute. The count stops it, which cannot be heard, and lets it go on. */
const bystander = (place: Place) =>
  Effect.promise(async () => {
    const program = `$SIG{$_} = do { my $name = $_; sub { print "$name\\n" } } for grep !/^(CONT|NUM\\d+|RTM\\w+)$/, keys %SIG;
      $| = 1; print "$$ up\\n"; my $end = time + 60; 1 while ($end - time > 0 and select undef, undef, undef, $end - time)`
    const child = place.spawn("perl", ["-e", program])
    const heard: Array<string> = []
    await new Promise<void>((up) =>
      child.stdout.setEncoding("utf8").on("data", (text: string) => {
        heard.push(...text.trim().split(/\s+/))
        up()
      })
    )
    const lives = () => child.exitCode === null && child.signalCode === null
    return { pid: Number(heard.shift()), heard: () => heard.join(" "), lives }
  })

const trial = (ending: Ending, names: ReadonlyArray<string>) =>
  Effect.gen(function* () {
    const { place: makePlace, stage } = yield* Outside
    const place = yield* makePlace
    const other = yield* bystander(place)
    const zoo = yield* ending.open(place)
    yield* zoo.start(
      names.map((vice, index) => ({
        command: path.join(stage.tortures, vice),
        args: [],
        killGraceMs,
        pty: index % 2 === 0 ? { cols: 80, rows: 24 } : null
      }))
    )
    yield* zoo.due
    const ender = zoo.ender()
    const before = yield* place.waitedMs(ender)
    const { at: began, told } = yield* zoo.end
    const { at, left } = yield* untilNobody(
      place,
      (all) => zoo.withoutStaff(all).filter(({ pid }) => pid !== other.pid),
      hangMs
    )
    // The machine may have given every processor to others for a while; the tests run beside others.
    const waitedMs = zoo.ender() === ender ? Math.max(0, (yield* place.waitedMs(ender)) - before) : 0
    const tookMs = Math.round(at - began - waitedMs)
    const crowded = names.filter((name) => busy.has(name)).length > 1
    // Beside other tests on a busy machine a time says nothing; the soak has the machine to itself.
    const limitMs = soak ? killGraceMs + ending.extraMs + sweepMs + (crowded ? crowdedMs : 0) : hangMs
    if (process.env["ZOO_TIMES"])
      console.log(
        `TOOK ${names.length} ${names[0]}: ${Math.round(at - began)} ms, waited ${Math.round(waitedMs)}`
      )
    const differs = (told ?? []).flatMap((one, index) => {
      const said = line(one)
      const name = names[index]!
      return leavers.has(name) || mayBeSaid(name, ending.told).includes(said) ? [] : [`${name}: ${said}`]
    })
    assert.deepStrictEqual(
      {
        left: left.map(({ command }) => command),
        inTime: tookMs <= limitMs ? "in time" : `${tookMs} ms`,
        bystander: other.lives() ? other.heard() : "dead",
        differs
      },
      { left: [], inTime: "in time", bystander: "up", differs: [] }
    )
  }).pipe(Effect.scoped)

const quiet = vices.filter((vice) => !busy.has(vice))

/** Side by side: the quiet vices for every ending, and the busy ones for those that are said. */
export const together =
  (busyToo: ReadonlyArray<string>): Grouping =>
  (how) => ({
    "quiet vices": quiet,
    ...(busyToo.includes(how) ? { "busy vices": [...busy] } : {})
  })

/** All, where none is named: each alone, and then all together. */
export const oneByOne =
  (named: ReadonlyArray<string> | null): Grouping =>
  () => ({
    ...Object.fromEntries((named ?? vices).map((vice) => [vice, [vice]])),
    ...(named === null ? { "quiet vices": quiet, "busy vices": [...busy] } : {})
  })

/** For an ending: what is there at once. */
type Grouping = (how: string) => Readonly<Record<string, ReadonlyArray<string>>>

export const suite = (world: string, endings: Readonly<Record<string, Ending>>, grouping: Grouping) =>
  describe(world, () => {
    withLayer(layer, { excludeTestServices: true })((it) => {
      for (const [how, ending] of Object.entries(endings))
        for (const [what, names] of Object.entries(grouping(how)))
          it.effect(
            `nothing is left of ${names.length > 1 ? `${names.length} ` : ""}${what} after ${how}, by ${proof}`,
            () => trial(ending, names),
            90_000
          )
    })
  })

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

/** Every vice there is. */
export const vices: ReadonlyArray<string> = fs.readdirSync(tortures)

/** Between asking and killing. */
export const killGraceMs = 300
/** Of the promise: nobody is left within the grace and this. */
const sweepMs = 1_000
/** A number of its own every few microseconds: the one vice that takes longer to catch by marks (containment, section 9). */
const untilNobodyMs = 30_000

export interface Beast {
  readonly vice: string
  readonly command: string
  readonly args: ReadonlyArray<string>
  readonly terminal: boolean
}

/** How a run ended, in the words of whoever kept it; null where nobody can be asked any more. */
export interface Told {
  readonly reason: string | null
  readonly lost: string | null
  readonly extinction: { readonly proven: boolean; readonly survivors: ReadonlyArray<number> } | null
}

/** In a line: `stopped, proven`. */
const line = ({ reason, lost, extinction }: Told): string => {
  const left = extinction?.survivors.length ? `, leaving ${extinction.survivors.join(" ")}` : ""
  return `${reason ?? lost}${extinction === null ? "" : extinction.proven ? ", proven" : ", not proven"}${left}`
}

export interface Ended {
  /** Of `performance.now()`: when the grace began. */
  readonly at: number
  readonly told: ReadonlyArray<Told> | null
}

/** One life of a world with its runs. */
export interface Zoo {
  /** Returns when each has printed `up` or is over. */
  readonly start: (beasts: ReadonlyArray<Beast>) => Effect.Effect<unknown>
  readonly end: Effect.Effect<Ended>
  /** Those of the world that are to live on: its gateway and keeper. */
  readonly isStaff: (left: Left) => boolean
}

export interface Ending {
  readonly open: (place: Place) => Effect.Effect<Zoo, never, Scope.Scope | Outside>
  /** Beyond the grace of the run, before anybody is killed: how long a loss waits, say. */
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
        vice,
        command: path.join(stage.tortures, vice),
        args: [],
        terminal: index % 2 === 0
      }))
    )
    const { at: began, told } = yield* zoo.end
    const { at, left } = yield* untilNobody(
      place,
      (one) => zoo.isStaff(one) || one.pid === other.pid,
      untilNobodyMs
    )
    const tookMs = Math.round(at - began)
    if (process.env["ZOO_TIMES"]) console.log(`TOOK ${names[0]} ${names.length}: ${tookMs} ms`)
    const limitMs = killGraceMs + ending.extraMs + sweepMs
    const differs = (told ?? []).flatMap((one, index) => {
      const said = line(one)
      return leavers.has(names[index]!) || said === ending.told ? [] : [`${names[index]}: ${said}`]
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
    return tookMs
  }).pipe(Effect.scoped)

/** `apart`: each vice alone, one after the other; else all of them side by side. */
export const suite = (world: string, endings: Readonly<Record<string, Ending>>, apart: boolean) =>
  describe(world, () => {
    withLayer(layer, { excludeTestServices: true })((it) => {
      for (const [how, ending] of Object.entries(endings))
        for (const names of apart ? vices.map((vice) => [vice]) : [vices])
          it.effect(
            `nothing is left of ${apart ? names[0] : `${names.length} vices at once`} after ${how}, by ${proof}`,
            () => trial(ending, names),
            90_000
          )
    })
  })

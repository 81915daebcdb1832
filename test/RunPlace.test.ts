/** By what a run's environment names it, and who is not named by it. */
import { assert, describe, it } from "@effect/vitest"
import { placed, runPlace, runsNamedIn } from "../src/services/RunPlace.ts"

const paths = { state: "/home/u/.local/state/holdfast", runtime: "/run/user/1000/holdfast" }
const linux = { uid: 4_294_967_294, maxSocketBytes: 107 }
const run = "r-01J0000000000000ABCDEFGHJK"
const other = "r-01J0000000000000ZZZZZZZZZZ"

const environ = (env: Readonly<Record<string, string>>) =>
  Object.entries(env)
    .map((pair) => `${pair.join("=")}\0`)
    .join("")

const named = (env: Readonly<Record<string, string>>, runId = run) =>
  placed(env, runPlace(paths, runId, linux), runId, paths)

describe("RunPlace", () => {
  it("has a short directory for tmux below the runtime directory, or none where its socket would not fit", () => {
    const runtimeOf = (bytes: number) => `/${"x".repeat(bytes - 1)}`
    // /t-<12>/tmux-4294967294/ and a name of 16.
    const rest = 15 + 17 + 16
    assert.deepStrictEqual(
      [paths.runtime, runtimeOf(107 - rest), runtimeOf(108 - rest), `/${"\u00e4".repeat(30)}`].map(
        (runtime) => runPlace({ ...paths, runtime }, run, linux).tmux
      ),
      [
        "/run/user/1000/holdfast/t-ABCDEFGHJK".replace("t-", "t-00"),
        `${runtimeOf(107 - rest)}/t-00ABCDEFGHJK`,
        null,
        null
      ]
    )
  })

  it("names the run last in PATH, whatever PATH was, and beats a forged cookie", () => {
    const bin = `${paths.state}/runs/${run}/bin`
    assert.deepStrictEqual(
      [{ PATH: "/usr/bin:/opt/x", HOLDFAST_RUN: other, A: "1" }, { PATH: "" }, {}].map((env) => {
        const { PATH, HOLDFAST_RUN, TMUX_TMPDIR, ...rest } = named(env) as Record<string, string>
        return { PATH, HOLDFAST_RUN, TMUX_TMPDIR, rest }
      }),
      [
        [`/usr/bin:/opt/x:${bin}`, { A: "1" }] as const,
        // An empty entry is the working directory, and stays one.
        [`:${bin}`, {}] as const,
        [`/bin:/usr/bin:${bin}`, {}] as const
      ].map(([PATH, rest]) => ({
        PATH,
        HOLDFAST_RUN: run,
        TMUX_TMPDIR: "/run/user/1000/holdfast/t-00ABCDEFGHJK",
        rest
      }))
    )
  })

  it("takes the entry of the run that started it out of PATH, and leaves that of another gateway's run around it", () => {
    const outer = `/elsewhere/state/runs/${other}/bin`
    const { PATH } = named({ PATH: `/usr/bin:${paths.state}/runs/${other}/bin:${outer}` })
    assert.strictEqual(PATH, `/usr/bin:${outer}:${paths.state}/runs/${run}/bin`)
  })

  it("is found by the cookie, by PATH alone, and by both as one", () => {
    const { PATH } = named({ PATH: "/usr/bin" }) as Record<string, string>
    const look = (env: Record<string, string>) => [...runsNamedIn(environ(env))]
    assert.deepStrictEqual(
      {
        both: look({ PATH: PATH!, HOLDFAST_RUN: run }),
        cookie: look({ HOLDFAST_RUN: run }),
        path: look({ HOME: "/", PATH: PATH! }),
        inFront: look({ PATH: `/x:${PATH}:/y` }),
        nested: look({ PATH: `${PATH}:/z/runs/${other}/bin`, HOLDFAST_RUN: other })
      },
      { both: [run], cookie: [run], path: [run], inFront: [run], nested: [other, run] }
    )
  })

  it("is not found by what only looks like it", () => {
    assert.deepStrictEqual(
      [
        { MANPATH: `/s/runs/${run}/bin` },
        { PATH: `/s/runs/${run}/bin/x` },
        { PATH: `/s/runs/${run}` },
        { PATH: `/s/runs/r-short/bin` },
        { NOTE: `HOLDFAST_RUN=${run}` },
        { MY_HOLDFAST_RUN: run }
      ].map((env) => runsNamedIn(environ(env as unknown as Record<string, string>)).size),
      [0, 0, 0, 0, 0, 0]
    )
  })
})

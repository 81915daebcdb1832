/** Every vice alone, for every way in which a run can end, by `npm run soak`; everything else has the hardest one here. */
import { cliEndings } from "./support/cliZoo.ts"
import { embeddedEndings, keptEndings } from "./support/keptZoo.ts"
import { oneByOne, suite } from "./suites/endings.ts"

if (process.env["HOLDFAST_SOAK"]) {
  suite("PtySupervisor in process, by each ending of one run", keptEndings, oneByOne(null))
  suite("the keeper, by each ending of one run", { ...cliEndings, ...embeddedEndings }, oneByOne(null))
} else {
  const { "the close of their scope": close } = keptEndings
  suite(
    "PtySupervisor in process, by an ending of one run",
    { "the close of its scope": close! },
    oneByOne(["hopper-at-full-speed.pl"])
  )
}

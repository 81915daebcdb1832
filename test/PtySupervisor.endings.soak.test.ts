/** Every vice alone, for every way in which a run can end, by `npm run soak`; everything else has the hardest one here. */
import { cliEndings } from "./support/cliZoo.ts"
import { keptEndings } from "./support/keptZoo.ts"
import { oneByOne, suite } from "./suites/endings.ts"

const vices = process.env["HOLDFAST_SOAK"] ? null : ["hopper-at-full-speed.pl"]

suite("PtySupervisor in process, by each ending of one run", keptEndings, oneByOne(vices))
if (vices === null) suite("the keeper, by each ending of one run", cliEndings, oneByOne(vices))

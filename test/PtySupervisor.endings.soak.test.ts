/** Every vice alone, one after the other, for every way in which a run can end. Only by `npm run soak`: all at once are in the tests. */
import { keptEndings } from "./support/keptZoo.ts"
import { oneByOne, suite } from "./suites/endings.ts"

suite("PtySupervisor in process, by its endings one by one", keptEndings, oneByOne)

/** Every vice, for every way in which a run can end while its gateway holds it in process. */
import { keptEndings } from "./support/keptZoo.ts"
import { together, suite } from "./suites/endings.ts"

suite("PtySupervisor in process, by its endings", keptEndings, together)

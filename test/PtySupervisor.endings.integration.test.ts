/** Every vice, for every way in which a run can end while its gateway holds it in process. */
import { keptEndings } from "./support/keptZoo.ts"
import { suite, together } from "./suites/endings.ts"

suite("PtySupervisor in process, by its runs' endings", keptEndings, together([]))

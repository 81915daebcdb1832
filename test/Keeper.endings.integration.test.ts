/** Every vice, for every way in which a run of the built gateway and its keeper, or of an app and its keeper, can end. */
import { cliEndings } from "./support/cliZoo.ts"
import { embeddedEndings } from "./support/keptZoo.ts"
import { suite, together } from "./suites/endings.ts"

suite(
  "the keeper, by its runs' endings",
  { ...cliEndings, ...embeddedEndings },
  together(["a SIGKILL of the gateway"])
)

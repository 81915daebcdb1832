/**
 * What of the library is bundled: the one module that makes certificates. Its twenty packages would take the installed size
 * past its bound, and bundled they are a tenth of that.
 */
import * as path from "node:path"

const at = (file) => path.resolve(import.meta.dirname, "..", file)

export default {
  input: at("src/layers/internal/selfSigned.ts"),
  platform: "node",
  output: { file: at("dist/library/layers/internal/selfSigned.js"), format: "esm", minify: true }
}

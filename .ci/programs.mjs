/** How the programs are bundled: each start pays for what it uses, and for nothing else. */
import * as path from "node:path"

const source = (name) => path.resolve(import.meta.dirname, "../src/programs", name)

/** Effect's sockets import node:tls, which takes 13 ms of every start and 1 MB; it is loaded when somebody uses it. */
const lazyTls = {
  name: "lazy-tls",
  resolveId: (id) => (id === "node:tls" ? source("internal/lazyTls.ts") : null)
}

export default [
  {
    input: ["cli", "gateway", "keeper", "demo"].map((name) => source(`${name}.ts`)),
    platform: "node",
    external: ["koffi", "node-pty"],
    plugins: [lazyTls],
    output: {
      dir: "dist",
      minify: true,
      entryFileNames: "[name].mjs",
      chunkFileNames: "chunk-[hash].mjs"
    }
  },
  {
    input: source("hookRelay.ts"),
    platform: "node",
    output: { file: "dist/hookRelay.cjs", format: "cjs", minify: true }
  }
]

/** The least a gateway could be: raw node:http on a Unix socket that reads a body, parses it and gives a small answer. */
import * as http from "node:http"
import { serve } from "./serve.ts"

const handlers = {
  listen: (socketPath: string) =>
    new Promise<number>((resolve, reject) => {
      const server = http.createServer((request, response) => {
        const chunks: Array<Buffer> = []
        request.on("data", (chunk: Buffer) => chunks.push(chunk))
        request.on("end", () => {
          const { tool_name } = JSON.parse(Buffer.concat(chunks).toString("utf8")) as { tool_name?: unknown }
          const body = tool_name === "Bash" ? "" : "{}"
          response.sendDate = false
          response.writeHead(200, { "content-type": "application/json", "content-length": body.length })
          response.end(body)
        })
      })
      server.on("error", reject)
      server.listen(socketPath, () => resolve(process.pid))
    })
}

export type Echo = typeof handlers

serve(handlers)

/**
 * The least a gateway could be: raw node:http on a Unix socket that reads a body, parses it and gives a small answer. With
 * a database it also writes one row per question before it answers, as durably as the gateway does.
 */
import * as http from "node:http"
import { DatabaseSync } from "node:sqlite"
import { serve } from "./serve.ts"

const rowsIn = (file: string): ((text: string) => void) => {
  const database = new DatabaseSync(file)
  for (const pragma of ["journal_mode=WAL", "synchronous=NORMAL"]) database.exec(`PRAGMA ${pragma}`)
  database.exec("CREATE TABLE question (seq INTEGER PRIMARY KEY, at REAL, text TEXT) STRICT")
  const insert = database.prepare("INSERT INTO question (at, text) VALUES (?, ?)")
  return (text) => void insert.run(Date.now(), text)
}

const handlers = {
  listen: ({ socketPath, database }: { readonly socketPath: string; readonly database: string | null }) =>
    new Promise<number>((resolve, reject) => {
      const keep = database === null ? null : rowsIn(database)
      const server = http.createServer((request, response) => {
        const chunks: Array<Buffer> = []
        request.on("data", (chunk: Buffer) => chunks.push(chunk))
        request.on("end", () => {
          const text = Buffer.concat(chunks).toString("utf8")
          const { tool_name } = JSON.parse(text) as { readonly tool_name?: unknown }
          keep?.(text)
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

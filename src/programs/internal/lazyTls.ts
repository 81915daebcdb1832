/** Stands for node:tls in the bundled programs: what Effect's sockets use of it, loaded when it is used. */
import type * as Tls from "node:tls"

const tls = () => process.getBuiltinModule("node:tls")

export const connect = (options: Tls.ConnectionOptions): Tls.TLSSocket => tls().connect(options)

export const createServer = (options: Tls.TlsOptions): Tls.Server => tls().createServer(options)

export const createSecureContext = (options?: Tls.SecureContextOptions): Tls.SecureContext =>
  tls().createSecureContext(options)

/** Called with `new`, whose result is what it returns. */
export function TLSSocket(
  socket: ConstructorParameters<typeof Tls.TLSSocket>[0],
  options?: Tls.TLSSocketOptions
) {
  return new (tls().TLSSocket)(socket, options)
}

/** What a child gets of this process's environment: by name, so that secrets stay where they are. */

/** What a program needs to work as in its user's shell. */
const passedVariables = [
  "PATH",
  "HOME",
  "USER",
  "LOGNAME",
  "SHELL",
  "LANG",
  "LC_ALL",
  "LC_CTYPE",
  "TZ",
  "TMPDIR",
  "SSL_CERT_FILE",
  "SSL_CERT_DIR"
]

/** Those that are set, and the ones named beside them. */
export const passed = (
  environment: Readonly<Record<string, string | undefined>>,
  more: ReadonlyArray<string> = []
): Readonly<Record<string, string>> =>
  Object.fromEntries(
    [...passedVariables, ...more].flatMap((name) => {
      const value = environment[name]
      return value === undefined ? [] : [[name, value] as const]
    })
  )

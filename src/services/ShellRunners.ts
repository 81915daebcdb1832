/** ShellRunners: programs by how they run what stands behind them: a command, a script, code of their own language. */
import type { Options } from "./ShellCommand.ts"

/** Programs that run the rest of their words. */
export const runners: Readonly<Record<string, Options>> = {
  nohup: {},
  setsid: {},
  builtin: {},
  command: {},
  exec: { short: "a" },
  time: { short: "fo", long: ["format", "output"] },
  nice: { short: "n", long: ["adjustment"] },
  ionice: { short: "cnpPu", long: ["class", "classdata"] },
  stdbuf: { short: "ioe", long: ["input", "output", "error"] },
  timeout: { short: "sk", long: ["signal", "kill-after"], before: 1 },
  gtimeout: { short: "sk", long: ["signal", "kill-after"], before: 1 },
  chrt: { short: "pTPD", before: 1 },
  taskset: { short: "", before: 1 },
  chroot: { long: ["userspec", "groups"], before: 1 },
  unshare: {
    short: "SGR",
    long: [
      "propagation",
      "setuid",
      "setgid",
      "root",
      "wd",
      "map-user",
      "map-group",
      "map-users",
      "map-groups"
    ]
  },
  nsenter: { short: "tSG", long: ["target", "setuid", "setgid", "wd"] },
  strace: { short: "aeEIoOpPsSuX", long: ["output", "trace"] },
  ltrace: { short: "aDeFlnopsSuwx" },
  busybox: {},
  toybox: {},
  fakeroot: { short: "ls" },
  caffeinate: { short: "tw" },
  "xvfb-run": { short: "efnps" },
  "dbus-run-session": {},
  firejail: {},
  entr: {},
  env: {},
  sudo: {
    short: "ugCDhpRrTtU",
    long: ["user", "group", "chdir", "chroot", "close-from", "host", "prompt", "role", "type", "other-user"]
  },
  doas: { short: "uC" },
  pkexec: { long: ["user"] },
  run0: { long: ["user", "unit", "property", "chdir"] },
  gosu: { before: 1 },
  "su-exec": { before: 1 },
  setpriv: { long: ["reuid", "regid", "groups"] },
  "systemd-run": { short: "pu", long: ["unit", "property", "uid", "gid", "working-directory"] },
  unbuffer: {},
  coreutils: {},
  noglob: {},
  nocorrect: {},
  "-": {},
  repeat: { before: 1 },
  prlimit: {},
  numactl: { short: "NmCpiP" },
  cgexec: { short: "g" },
  setarch: { before: 1 },
  linux32: {},
  linux64: {},
  i386: {},
  x86_64: {},
  uname26: {},
  valgrind: {},
  catchsegv: {},
  chronic: {},
  ifne: {},
  "systemd-inhibit": { long: ["who", "what", "why", "mode"] },
  "systemd-cat": { short: "tp", long: ["identifier", "priority"] },
  faketime: { short: "f", before: 1 },
  datefudge: { before: 1 },
  rlwrap: {},
  torsocks: {},
  torify: {},
  tsocks: {},
  proxychains: { short: "f" },
  proxychains4: { short: "f" },
  sshpass: { short: "pfPd" },
  "dbus-launch": {},
  cpulimit: { short: "lpe", long: ["limit", "pid", "exe"] },
  watchexec: { short: "wefd", long: ["watch", "exts", "filter", "ignore", "debounce"] },
  uvx: { long: ["from", "with", "python"] },
  softlimit: { short: "acdflmnoprst" },
  chpst: { short: "uUbedomprtlLnP" },
  envdir: { before: 1 },
  setlock: { before: 1 },
  winpty: {}
}

/** Of these the second word is `run` or `exec`, and the rest a command. */
export const runWords: Readonly<Record<string, ReadonlyArray<string>>> = {
  poetry: ["run"],
  pipenv: ["run"],
  npm: ["exec", "x"],
  pnpm: ["exec", "dlx"],
  yarn: ["exec", "dlx"],
  uv: ["run"],
  rye: ["run"],
  pdm: ["run"],
  bundle: ["exec"],
  mise: ["exec", "x"],
  asdf: ["exec"],
  dotenv: ["run"]
}

const shells = /^(?:(?:r?ba|d?a|r?z|[mro]?k|lok|lk|pdk|ya|po|hu)?sh|ksh93)[\d.-]*$/

export const isShell = (name: string): boolean => shells.test(name)

/** Letters after which one of these takes code of its own language. */
export interface Interpreter {
  readonly code: string
  readonly options: Options
}

const interpreters: ReadonlyArray<readonly [RegExp, Interpreter]> = [
  [/^(?:[ib]?python|pypy)[\d.]*$/, { code: "c", options: { short: "cmWXQ" } }],
  [
    /^(?:node|nodejs|bun|tsx|ts-node)$/,
    {
      code: "ep",
      options: { short: "eprC", long: ["eval", "print", "require", "import", "loader", "conditions"] }
    }
  ],
  [/^perl[\d.]*$/, { code: "eE", options: { short: "eEIMm" } }],
  [/^ruby[\d.]*$/, { code: "e", options: { short: "eIrCEx" } }],
  [/^php[\d.]*$/, { code: "rBRE", options: { short: "rBREcdfFtz" } }],
  [/^lua[\d.]*$/, { code: "e", options: { short: "el" } }],
  [/^osascript$/, { code: "e", options: { short: "el" } }],
  [/^(?:fish|t?csh|nu|xonsh|elvish|guile)$/, { code: "c", options: { short: "c" } }],
  [/^(?:pwsh|powershell)(?:\.exe)?$/, { code: "cC", options: { short: "cC" } }],
  [
    /^(?:julia|elixir|erl|scala|groovy|kotlin|racket|ghc|clojure|clj|bb|gnuplot|R)$/,
    { code: "eE", options: { short: "eE" } }
  ],
  [/^clisp$/, { code: "x", options: { short: "x" } }],
  [/^(?:deno|crystal|octave|sbcl|tclsh|wish|irb|jshell)[\d.]*$/, { code: "", options: { long: ["eval"] } }],
  [/^emacsclient$/, { code: "e", options: { short: "e", long: ["eval"] } }],
  [/^emacs$/, { code: "", options: { short: "l", long: ["eval", "load"] } }],
  [/^expect$/, { code: "c", options: { short: "c" } }],
  [/^Rscript$/, { code: "e", options: { short: "e" } }]
]

export const interpreterOf = (name: string): Interpreter | undefined =>
  interpreters.find(([pattern]) => pattern.test(name))?.[1]

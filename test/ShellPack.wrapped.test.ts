/** The shell pack through compositions of wrappers: what is refused plainly is never let pass, however it is wrapped. */
import { assert, describe, it } from "@effect/vitest"
import { shellVerdict } from "../src/layers/internal/policyPack.ts"
import { everyday } from "./fixtures/shell/everyday.ts"
import { shellEvent } from "../src/testing/HookEvent.ts"

const say = shellVerdict("/home/dev")
const verdictOf = (command: string): string =>
  say({ ...shellEvent(command), cwd: "/home/dev/project" })?._tag ?? "pass"

/** mulberry32: small, and the same everywhere. */
const random = (seed: number): ((below: number) => number) => {
  let state = seed
  return (below) => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below
  }
}

const quoted = (text: string): string => `'${text.replaceAll("'", String.raw`'\''`)}'`
const doubled = (text: string): string => `"${text.replace(/[\\"$`]/g, String.raw`\$&`)}"`

type Wrapper = (line: string, pick: (below: number) => number) => string

/** A word that ends a here-document and stands in none of the lines within. */
const endOf = (line: string, pick: (below: number) => number): string => {
  const end = `END${pick(1_000_000)}`
  return line.includes(end) ? endOf(line, pick) : end
}

/** Around any line: it is given as one text, or stands between words of the shell. */
const around: ReadonlyArray<Wrapper> = [
  (line) => `sh -c ${quoted(line)}`,
  (line) => `bash -lc ${doubled(line)}`,
  (line) => `bash -euo pipefail -c ${quoted(line)}`,
  (line) => `eval ${quoted(line)}`,
  (line) => `echo "$(${line}\n)"`,
  (line) => `x=$(${line}\n)`,
  (line) => `cat <(${line}\n)`,
  (line) => `(${line}\n)`,
  (line) => `{ ${line}\n}`,
  (line) => `(${line}\n) | cat`,
  (line) => `ls | { ${line}\n}`,
  (line) => `echo ${quoted(line)} | sh`,
  (line) => `printf '%s\\n' ${quoted(line)} | bash -s`,
  (line) => `bash <<< ${quoted(line)}`,
  (line, pick) => {
    const end = endOf(line, pick)
    return `bash <<'${end}'\n${line}\n${end}`
  },
  (line, pick) => {
    const end = endOf(line, pick)
    return `cat <<'${end}' | sh\n${line}\n${end}`
  },
  (line) => `run() { ${line}\n}; run`,
  (line) => `function run { (${line}\n)\n}; ls; run`,
  (line) => `if ls; then ${line}\nfi`,
  (line) => `false || { ${line}\n}`,
  (line) => `for i in 1 2; do ${line}\ndone`,
  (line) => `while ls; do ${line}\nbreak; done`,
  (line) => `case x in y) ;; *) ${line}\n;; esac`,
  (line) => `trap ${quoted(line)} EXIT`,
  (line) => `X=${quoted(line)}; eval "$X"`,
  (line) => `X=${quoted(line)} bash -c 'eval "$X"'`,
  (line) => `set -- ${quoted(line)}; sh -c "$1"`,
  (line) => `a=(bash -c ${quoted(line)}); "\${a[@]}"`,
  (line) => `: "\${X:=${"$"}(${line}\n)}"`,
  (line) => `coproc { ${line}\n}`,
  (line) => `find . -name x -exec sh -c ${quoted(line)} \\;`,
  (line) => `xargs -I{} sh -c ${quoted(line)} < list`,
  (line) => `ssh host ${quoted(line)}`,
  (line) => `git -c alias.x=${quoted(`!${line}`)} x`,
  (line) => `script -qc ${quoted(line)} /dev/null`,
  (line) => `watch -n 5 ${quoted(line)}`,
  (line) => `${line}\n`,
  (line) => `ls; ${line}`,
  (line) => `ls &\n${line}`
]

/** Before one command, which is what a script of a shell is as well. */
const before: ReadonlyArray<string> = [
  "env A=b",
  "env -i",
  "env -",
  "sudo",
  "sudo -u root",
  "nohup",
  "timeout 5",
  "timeout -s KILL 5",
  "nice -n 5",
  "setsid",
  "stdbuf -oL",
  "command",
  "exec",
  "time",
  "busybox",
  "xargs",
  "xargs -n1",
  "flock /tmp/lock",
  "strace -f",
  "setpriv --reuid 1",
  "unshare -r",
  "chroot /",
  "prlimit -n1",
  "gdb --args",
  "an-unknown-wrapper --flag"
]

const wrapped = (line: string, pick: (below: number) => number, levels: number): string => {
  let text = line
  for (let level = 0; level < levels; level++) {
    text = around[pick(around.length)]!(text, pick)
    if (pick(3) === 0) text = `${before[pick(before.length)]!} sh -c ${quoted(text)}`
  }
  return text
}

/** One for each thing that is refused. */
const refused: ReadonlyArray<string> = [
  "rm -rf /",
  "rm -rf /etc",
  'rm -rf "$HOME"',
  "git push --force origin main",
  "dd if=x of=/dev/sda",
  "echo x >> /etc/passwd",
  "chmod -R 777 /usr",
  "kill -9 -1",
  "holdfast approvals approve 1",
  "cat < /dev/tcp/10.0.0.1/80",
  "cd / && rm -rf etc",
  "find /usr -delete",
  "mkfs.ext4 /dev/sdb1"
]

/** Together they take under two seconds of one core; a line of a day is longer than one that is refused. */
const cases = { refused: 1_300, everyday: 700 }

describe("the shell pack through wrappers", () => {
  it(`what is refused is never let pass through ${cases.refused} compositions of them`, () => {
    const pick = random(20_261)
    const passed: Array<string> = []
    for (let index = 0; index < cases.refused; index++) {
      const line = wrapped(refused[index % refused.length]!, pick, 1 + pick(3))
      if (verdictOf(line) === "pass") passed.push(line)
    }
    assert.deepStrictEqual(passed, [])
  })

  it("what is refused is refused through each of them alone", () => {
    const pick = random(7)
    const weaker = refused.flatMap((line) =>
      around.map((wrap) => wrap(line, pick)).filter((text) => verdictOf(text) !== "deny")
    )
    assert.deepStrictEqual(weaker, [])
  })

  it(`nothing of a developer's day makes it throw, or is refused, in ${cases.everyday} compositions`, () => {
    const pick = random(42)
    const wrong: Array<string> = []
    for (let index = 0; index < cases.everyday; index++) {
      const line = wrapped(everyday[index % everyday.length]!, pick, 1 + pick(3))
      if (verdictOf(line) === "deny") wrong.push(line)
    }
    assert.deepStrictEqual(wrong, [])
  })
})

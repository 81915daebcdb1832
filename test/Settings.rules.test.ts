import { assert, describe, it } from "@effect/vitest"
import * as Result from "effect/Result"
import { compileRule, maxSearchedLength } from "../src/services/Policy.ts"
import { defaultRules } from "../src/services/DefaultRules.ts"
import { shellEvent } from "../src/testing/HookEvent.ts"

const rules = defaultRules.map((rule, order) => Result.getOrThrow(compileRule(rule, order)))

/** Ids of the default rules that speak against a command line. */
const against = (command: string): ReadonlyArray<string> =>
  rules.filter((rule) => rule.ask(shellEvent(command).call!, false) !== null).map(({ policy }) => policy)

const stopped: Readonly<Record<string, ReadonlyArray<string>>> = {
  "no-recursive-force-delete": [
    "rm -rf x",
    "rm -fr x",
    "rm -Rf x",
    "rm -r -f x",
    "rm -f -r x",
    "rm -rfv x",
    "rm -vrf x",
    "rm -v -r -i -f x",
    "rm --recursive --force x",
    "rm --force --recursive x",
    "rm --rec --fo x",
    "rm -r --force x",
    "rm --recursive -f x",
    "rm x -rf",
    "rm -r x y z -f",
    "rm\t-rf x",
    "  rm  -rf  x",
    "/bin/rm -rf x",
    "\\rm -rf x",
    '"rm" -rf x',
    "'rm' -rf x",
    'rm "-rf" x',
    "rm -'r'f x",
    "rm \\\n  -rf x",
    "rm\\\n -r \\\n -f x",
    "sudo rm -rf x",
    "sudo -n -u root rm -rf x",
    "env rm -rf x",
    "env A=1 rm -rf x",
    "A=1 rm -rf x",
    "command rm -Rf x",
    "exec rm -rf x",
    "time nice -n 5 rm -rf x",
    "busybox rm -rf x",
    "ls | xargs rm -rf",
    "ls|xargs -0 -n1 rm -r -f",
    "find . -name x -exec rm -rf {} +",
    "find . -exec rm -r {} \\; -exec rm -f -r {} +",
    "cd x && rm -rf y",
    "cd x;rm -rf y",
    "true&rm -rf y",
    "cd x\nrm -rf y",
    "if a; then rm -rf y; fi",
    "{ rm -rf y; }",
    "(rm -rf y)",
    "! rm -rf y",
    "bash -c 'rm -rf x'",
    'bash -lc "cd x && rm -rf ."',
    'eval "rm -rf x"',
    "echo $(rm -rf x)",
    "echo `rm -rf x`",
    "diff <(rm -rf x) y",
    "ssh host rm -rf x",
    "git rm -rf x",
    "rm -rf x # cleaning"
  ],
  "no-force-push": [
    "git push --force",
    "git push -f",
    "git push -uf origin x",
    "git push origin main --force",
    "git push --force-with-lease",
    "git -C repo push origin -f",
    "git -c a=b push --force origin",
    "git push origin +main",
    "git push --mirror",
    "/usr/bin/git push -f",
    "cd x && git push -f",
    "bash -c 'git push -f'",
    "git \\\n push \\\n --force"
  ],
  "no-raw-disk-write": [
    "mkfs /dev/sda1",
    "mkfs.ext4 -F /dev/sda1",
    "sudo /sbin/mkfs.xfs /dev/x",
    "dd if=x of=/dev/sda bs=1M",
    "dd of='/dev/nvme0n1' if=x",
    "sudo dd bs=4M of=/dev/disk2",
    "cat x > /dev/sda",
    "cat x >/dev/nvme0n1",
    "bash -c 'dd if=x of=/dev/sdb'"
  ]
}

const passed: ReadonlyArray<string> = [
  "rm file",
  "rm -r dir",
  "rm -f file",
  "rm -i -v file",
  "rm -f a-r.txt r f",
  "rm -r ./x-f --preserve-root",
  "rm -r build && cp -f a b",
  "rm -f a; ls -r",
  "rm -f a | sort -r",
  "rm -f a\ngrep -r b",
  "git rm -r --cached x",
  "git rm --cached -r x",
  "echo format",
  "echo format -rf",
  "npm run rm-fr",
  "npm run rm-rf",
  "docker run --rm -v r:f image",
  "docker run --rm -rf image",
  "docker rm -f box",
  "./confirm -rf",
  "alarm -rf",
  "firm.rm -rf",
  "ls -rf",
  "tar -rf a.tar b",
  "git push",
  "git push origin main",
  "git push -u origin feature-f",
  "git push --follow-tags",
  "git push --no-force-x",
  "git push && rm -f x",
  "git log -f -- push-notes",
  "git commit -m 'push it' && tail -f log",
  "git stash push -m wip",
  "git pull -f",
  "digit push -f",
  "dd if=/dev/zero of=x.img",
  "dd if=x of=/dev/null",
  "dd if=x of=/dev/stdout",
  "add of=/dev/sda",
  "man mkfs",
  "echo x > /dev/null",
  "echo x 2>/dev/stderr",
  "npm test"
]

describe("Settings default rules", () => {
  for (const [id, commands] of Object.entries(stopped))
    it.each(commands)(`${id} stops %j`, (command) => {
      assert.deepStrictEqual(against(command), [id])
    })

  it.each(passed)("they let %j pass", (command) => {
    assert.deepStrictEqual(against(command), [])
  })

  // The command line is the agent's: none may be able to hold the gateway with it. A backtracking rule needs hours here.
  const pieces = [
    "rm ",
    "rm -",
    "rm -rx ",
    "rm -r ",
    "rm x ",
    "rm \\\n",
    'rm "-',
    "git push ",
    "git push -",
    "git "
  ].concat(["dd ", "dd of=", "dd of=/dev/null ", "mkfs", "mkfs.", "> ", ">", '"-', "-a", " ", "\\", "a", "+"])
  it.each(pieces)("the longest line of %j is searched in no time to speak of", (piece) => {
    const line = piece.repeat(maxSearchedLength / piece.length)
    assert.isAtMost(against(line).length, 1)
  })
})

/** The last signal to a child that leads a process group of its own. */
import { signal } from "./procfs.ts"

/** Of a leader that is known to live: it has led its group since it was forked, and nobody can take one from its leader. */
export const killGroup = (leader: number): void => {
  try {
    process.kill(-leader, "SIGKILL")
  } catch {
    signal(leader, "SIGKILL")
  }
}

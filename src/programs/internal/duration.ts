/** A length of time as a person types it: `500ms`, `10s`, `2m`, `1h`. */
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"

const units = { ms: "millis", s: "seconds", m: "minutes", h: "hours" } as const

/** In whole milliseconds; none where it is not one, or shorter than the clock can tell or longer than `longestMs`. */
export const parseDuration =
  (longestMs: number) =>
  (text: string): Option.Option<number> => {
    const [, amount, unit] = /^(\d{1,9}(?:\.\d{1,3})?)(ms|s|m|h)$/.exec(text) ?? []
    if (amount === undefined) return Option.none()
    return Duration.fromInput(`${Number(amount)} ${units[unit as keyof typeof units]}`).pipe(
      Option.map((duration) => Math.round(Duration.toMillis(duration))),
      Option.filter((ms) => ms >= 1 && ms <= longestMs)
    )
  }

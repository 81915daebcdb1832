/**
 * What the bench says: one row per measured thing, beside the floor that was measured in the same run, and its budget.
 *
 * A budget is on the ratio to the floor, on the value itself, or on what the value is over the floor. A row without one
 * is there to compare by, and is neither met nor missed.
 */
import { table } from "../../src/services/Report.ts"

export type Budget =
  | { readonly on: "ratio" | "value" | "difference"; readonly atMost: number }
  | { readonly on: "ratio"; readonly atLeast: number }

export interface Row {
  readonly id: string
  readonly what: string
  readonly unit: string
  readonly value: number
  readonly floor: number
  readonly floorIs: string
  /** Null where the floor is nothing at all. */
  readonly ratio: number | null
  /** Samples of the value; the floor has as many. */
  readonly n: number
  readonly budget: Budget | null
  readonly met: boolean | null
}

export interface LeftOut {
  readonly id: string
  readonly why: string
}

export interface Measured {
  readonly rows: ReadonlyArray<Row>
  readonly leftOut?: ReadonlyArray<LeftOut>
}

export const quantile = (numbers: ReadonlyArray<number>, q: number): number => {
  const sorted = numbers.toSorted((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))] ?? Number.NaN
}

export const median = (numbers: ReadonlyArray<number>): number => quantile(numbers, 0.5)

/** `whole: false` misses the budget whatever the numbers are: not everything that was asked was answered. */
export const row = (
  facts: Omit<Row, "ratio" | "met" | "budget"> & { readonly budget?: Budget; readonly whole?: boolean }
): Row => {
  const { budget = null, whole = true, ...rest } = facts
  const ratio = rest.floor === 0 ? null : rest.value / rest.floor
  const measured = {
    ratio: ratio ?? Number.POSITIVE_INFINITY,
    difference: rest.value - rest.floor,
    value: rest.value
  }
  const holds = (one: Budget): boolean =>
    "atLeast" in one ? measured[one.on] >= one.atLeast : measured[one.on] <= one.atMost
  return { ...rest, ratio, budget, met: budget === null ? null : whole && holds(budget) }
}

const digits = (value: number): string =>
  Math.abs(value) >= 100 ? value.toFixed(0) : Math.abs(value) >= 10 ? value.toFixed(1) : value.toFixed(2)

const budgetText = ({ budget, unit }: Row): string => {
  if (budget === null) return "-"
  if ("atLeast" in budget) return `>= ${budget.atLeast} x`
  switch (budget.on) {
    case "ratio":
      return `<= ${budget.atMost} x`
    case "value":
      return `<= ${budget.atMost} ${unit}`
    case "difference":
      return `<= floor + ${budget.atMost} ${unit}`
  }
}

export const text = (rows: ReadonlyArray<Row>): string =>
  table([
    ["ID", "VALUE", "FLOOR", "RATIO", "BUDGET", "MET", "N", "WHAT (floor)"],
    ...rows.map((row) => [
      row.id,
      `${digits(row.value)} ${row.unit}`,
      `${digits(row.floor)} ${row.unit}`,
      row.ratio === null ? "-" : digits(row.ratio),
      budgetText(row),
      row.met === null ? "-" : row.met ? "yes" : "NO",
      String(row.n),
      `${row.what} (${row.floorIs})`
    ])
  ])

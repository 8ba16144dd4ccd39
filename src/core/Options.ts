/**
 * The kinds of values that options have, and how a struct of options is decoded.
 *
 * @since 0.1.0
 */
import { Duration, Effect, Option, Schema, SchemaTransformation } from "effect"

/** A whole number of at least `minimum`. */
export const count = (minimum: number) => Schema.Int.check(Schema.isGreaterThanOrEqualTo(minimum))

/** A whole number of at least 0, or `Infinity`. */
export const CountOrInfinity = Schema.Number.check(
  Schema.makeFilter((n: number) => n >= 0 && (Number.isSafeInteger(n) || n === Infinity), {
    expected: "an integer of at least 0, or Infinity"
  })
)

// `Duration.fromInput` takes NaN and an empty array for zero.
const isDurationInput = (input: unknown): input is Duration.Input =>
  !Number.isNaN(input) &&
  !(Array.isArray(input) && input.length !== 2) &&
  Option.exists(Duration.fromInput(input as Duration.Input), Duration.isGreaterThanOrEqualTo(Duration.zero))

/** A duration of at least 0, written in any way that Effect accepts. */
export const Time = Schema.declare(isDurationInput, { expected: 'a duration of at least 0, such as "5 seconds"' }).pipe(
  Schema.decodeTo(
    Schema.Duration,
    SchemaTransformation.transform<Duration.Duration, Duration.Input>({
      decode: Duration.fromInputUnsafe,
      encode: (duration) => duration
    })
  )
)

/** The value of an option that is left out. */
export const orElse = <A>(value: A) => Effect.succeed(value)

/** Decodes options, and dies with a message that names the wrong ones. */
export const decode = <S extends Schema.ConstraintDecoder<unknown>>(
  schema: S,
  options: unknown,
  of: string
): Effect.Effect<S["Type"]> =>
  Schema.decodeUnknownEffect(schema, { onExcessProperty: "error", errors: "all" })(options).pipe(
    Effect.catch((error) => Effect.die(new Error(`Invalid options of ${of}: ${error.message}`)))
  )

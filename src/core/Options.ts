/**
 * The kinds of values that options have, and how a struct of options is decoded.
 *
 * @since 0.1.0
 */
import { ConfigProvider, Duration, Effect, Option, Schema, SchemaTransformation } from "effect"

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

/** Whether something is switched on: `true` or `false`, or 1 or 0 as in the environment. */
export const Flag = Schema.Union([Schema.Boolean, Schema.Literals([0, 1])]).pipe(
  Schema.decodeTo(
    Schema.Boolean,
    SchemaTransformation.transform<boolean, boolean | 0 | 1>({ decode: Boolean, encode: (flag) => flag })
  )
)

const mebibytes = Schema.optionalKey(Schema.Number.check(Schema.isGreaterThan(0)))

/** The most memory that a thread may use, in MiB, as Node's `Worker` takes it; what is left out has Node's default. */
export const ResourceLimits = Schema.Struct({
  /** Of its heap, for what lives long. */
  maxOldGenerationSizeMb: mebibytes,
  /** Of its heap, for what was made lately. */
  maxYoungGenerationSizeMb: mebibytes,
  /** For compiled code. */
  codeRangeSizeMb: mebibytes,
  /** Of its stack. */
  stackSizeMb: mebibytes
})

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

/**
 * Resolves the options of something that has a name: what the `ConfigProvider` has under `serve.<name>.<option>` comes before what
 * was written in code. Dies, naming the option, when a value is out of range.
 */
export const resolve = Effect.fnUntraced(function* <
  S extends Schema.ConstraintDecoder<unknown> & { readonly fields: object }
>(schema: S, kind: string, name: string, written: object): Effect.fn.Return<S["Type"]> {
  const configured = yield* fromConfig(name, Object.keys(schema.fields))
  const names = Object.keys(configured).map((option) => `serve.${name}.${option}`)
  const source = names.length === 0 ? "" : ` (from the ConfigProvider: ${names.join(", ")})`
  return yield* decode(schema, { ...written, ...configured }, `${kind} "${name}"${source}`)
})

const fromConfig = Effect.fnUntraced(function* (name: string, options: ReadonlyArray<string>) {
  const given = yield* ConfigProvider.ConfigProvider
  const provider = ConfigProvider.orElse(given, ConfigProvider.constantCase(given))
  const found: Record<string, string | number | boolean> = {}
  for (const option of options) {
    const node = yield* Effect.orDie(provider.load(["serve", name, option]))
    if (node?.value !== undefined) found[option] = valueOf(node.value)
  }
  return found
})

const valueOf = (text: string): string | number | boolean => {
  if (text === "true" || text === "false") return text === "true"
  return text.trim() === "" || Number.isNaN(Number(text)) ? text : Number(text)
}

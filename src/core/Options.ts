/**
 * The kinds of values that options have, and how a struct of options is decoded.
 *
 * @since 0.1.0
 */
import { ConfigProvider, Duration, Effect, Option, Schema, SchemaAST, SchemaTransformation } from "effect"

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
  /** MiB of its heap, for what lives long. Default: Node's. */
  maxOldGenerationSizeMb: mebibytes,
  /** MiB of its heap, for what was made lately. Default: Node's. */
  maxYoungGenerationSizeMb: mebibytes,
  /** MiB for compiled code. Default: Node's. */
  codeRangeSizeMb: mebibytes,
  /** MiB of its stack. Default: Node's. */
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
 * Resolves the options of something that has a name: what the `ConfigProvider` has under `serve.<name>.<option>`, or for an option that is
 * a struct under `serve.<name>.<option>.<field>`, comes before what was written in code. Of `alternatives`, which say the same in several ways,
 * those that were written don't count when one is configured. Dies, naming the option, when a value is out of range.
 */
export const resolve = Effect.fnUntraced(function* <
  S extends Schema.ConstraintDecoder<unknown> & { readonly fields: Schema.Struct.Fields }
>(
  schema: S,
  kind: string,
  name: string,
  written: object,
  alternatives: ReadonlyArray<string> = []
): Effect.fn.Return<S["Type"]> {
  const given = yield* ConfigProvider.ConfigProvider
  const provider = ConfigProvider.orElse(given, ConfigProvider.constantCase(given))
  const load = (...path: ReadonlyArray<string>) =>
    Effect.map(Effect.orDie(provider.load(["serve", name, ...path])), (node) => node?.value)
  const options: Record<string, unknown> = { ...written }
  const names: Array<string> = []
  const put = (into: Record<string, unknown>, option: string, text: string, path: string) => {
    into[option] = valueOf(text)
    names.push(`serve.${name}.${path}`)
  }
  for (const [option, field] of Object.entries(schema.fields)) {
    const text = yield* load(option)
    if (text !== undefined) {
      if (alternatives.includes(option)) for (const other of alternatives) delete options[other]
      put(options, option, text, option)
    }
    const parts: Record<string, unknown> = {}
    for (const part of partsOf(field)) {
      const text = yield* load(option, part)
      if (text !== undefined) put(parts, part, text, `${option}.${part}`)
    }
    if (Object.keys(parts).length > 0) options[option] = { ...(options[option] as object | undefined), ...parts }
  }
  const source = names.length === 0 ? "" : ` (from the ConfigProvider: ${names.join(", ")})`
  return yield* decode(schema, options, `${kind} "${name}"${source}`)
})

/** The fields of an option that is a struct. */
const partsOf = ({ ast }: Schema.Constraint): ReadonlyArray<string> => {
  const type = SchemaAST.toType(ast)
  return SchemaAST.isObjects(type) ? type.propertySignatures.map(({ name }) => String(name)) : []
}

const valueOf = (text: string): string | number | boolean => {
  if (text === "true" || text === "false") return text === "true"
  return text.trim() === "" || Number.isNaN(Number(text)) ? text : Number(text)
}

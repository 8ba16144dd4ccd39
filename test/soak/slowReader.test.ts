import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { Feed, feed, slowReader } from "../acceptance/readers.ts"
import { ingresses, Quiet } from "../ingress/http.ts"

describe("a client that reads one kilobyte a second of an endless stream for a minute", () => {
  for (const server of ["layerNode", "layer", "layerNode, on a thread of its own"] as const) {
    it.live(`makes HttpIngress.${server} wait, and not grow`, () =>
      Effect.gen(function* () {
        assert.isAtMost(yield* slowReader(60), 50, "milliseconds until it is gone")
      }).pipe(
        Effect.scoped,
        Effect.provide(Layer.provide(feed(ingresses({ "/feed": Feed }, { stallTimeout: "10 minutes" })[server]), Quiet))
      )
    )
  }
})

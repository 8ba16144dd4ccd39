/**
 * What ends a request whose caller leaves.
 *
 * @since 0.1.0
 */
import { type Effect, Effectable } from "effect"
import type { Request } from "../replica/Request.ts"
import type { Router } from "./Router.ts"

// An object and not a closure, which would be three times as large: every request that waits has one.
export class Cancel extends Effectable.Class<void> {
  private readonly router: Router
  private readonly request: Request

  constructor(router: Router, request: Request) {
    super()
    this.router = router
    this.request = request
  }

  override asEffect(): Effect.Effect<void> {
    return this.router.cancelNow(this.request)
  }
}

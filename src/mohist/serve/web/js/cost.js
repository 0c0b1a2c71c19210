// What an answer cost: the server's prices for a million tokens times the tokens.

import { state } from "./state.js";

/** `{value, currency}` of an answer at today's prices; null where it has no figures or costs nothing. */
export function costOf({ usage, model }) {
  if (!usage) return null;
  const prices = state.get().models?.find((one) => one.id === model)?.prices;
  if (!prices) return null;
  const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
  const value =
    ((usage.prompt_tokens - cached) * prices.prompt_per_million +
      cached * prices.cached_per_million +
      usage.completion_tokens * prices.completion_per_million) /
    1e6;
  return value > 0 ? { value, currency: prices.currency } : null;
}

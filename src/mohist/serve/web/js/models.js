// The models and aliases that the server offers.

import { get } from "./api.js";
import { change, settings } from "./settings.js";
import { state } from "./state.js";

/** Ask the server what it offers; `state.offline` says why not. */
export async function loadModels() {
  try {
    const { data } = await get("/v1/models");
    state.set({ models: data, offline: null });
    // A model that is gone is not asked for again.
    const { model } = settings.get();
    if (model && !data.some((one) => one.id === model)) change({ model: "" });
  } catch (error) {
    if (error.status === undefined) throw error;
    state.set({ offline: error });
  }
}

/** The name that is asked for: the chosen one, or the server's first. */
export const chosenModel = () => settings.get().model || state.get().models?.[0]?.id || "";

/** What /v1/models says of a name; undefined until it does. */
export const modelCalled = (name) => state.get().models?.find((one) => one.id === name);

/** Whether a model runs on the server itself, so that its tokens can be counted and its answers replayed. */
export const isLocal = (name) => modelCalled(name)?.local ?? true;

/**
 * What can be done about a model's thinking: "switch" it, nothing since it "always" or "never" thinks, or ask
 * for it without knowing ("unclear").
 */
export const thinkingMode = (name) => modelCalled(name)?.thinking ?? "unclear";

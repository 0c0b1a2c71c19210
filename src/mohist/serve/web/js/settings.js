// What a person chose, kept in localStorage: small, and needed before the first paint (see theme.js).
// The API key is kept only as long as the tab lives, unless the person asks to remember it.

import { createStore } from "./store.js";

const KEY = "mohist.settings";
const API_KEY = "mohist.key";

const DEFAULTS = {
  theme: "auto", // auto | light | dark
  language: "auto", // auto | en | zh
  model: "", // "" is the server's default
  thinking: false,
  system: "",
  // Sampling: null leaves it to the server.
  temperature: null,
  top_p: null,
  top_k: null,
  max_tokens: null,
  thinking_budget: null,
  seed: null, // null draws a new one for each answer
};

export const settings = createStore({ ...DEFAULTS, ...read(localStorage, KEY) });

export function change(patch) {
  settings.set(patch);
  write(localStorage, KEY, settings.get());
}

export function resetSampling() {
  const { temperature, top_p, top_k, max_tokens, thinking_budget, seed } = DEFAULTS;
  change({ temperature, top_p, top_k, max_tokens, thinking_budget, seed });
}

export const apiKey = createStore({
  key: read(sessionStorage, API_KEY)?.key ?? read(localStorage, API_KEY)?.key ?? "",
  remembered: Boolean(read(localStorage, API_KEY)?.key),
});

export function setApiKey(key, remembered) {
  sessionStorage.removeItem(API_KEY);
  localStorage.removeItem(API_KEY);
  if (key) write(remembered ? localStorage : sessionStorage, API_KEY, { key });
  apiKey.set({ key, remembered });
}

function read(storage, name) {
  try {
    return JSON.parse(storage.getItem(name));
  } catch {
    return null; // Storage is off, or holds something else: the defaults it is.
  }
}

function write(storage, name, value) {
  storage.setItem(name, JSON.stringify(value));
}

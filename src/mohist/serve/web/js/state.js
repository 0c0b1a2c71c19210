// What is on the screen, in one place. Everything that changes it is in chat.js, conversations.js and router.js.

import { createStore } from "./store.js";

export const state = createStore({
  /** {view: "chat" | "admin", id}; `id` of the open conversation, null for a new one. */
  route: { view: "chat", id: null },
  /** All conversations, the last changed first; null until they are read. */
  conversations: null,
  /** The open conversation and its messages by id, oldest first; null for a new one. */
  conversation: null,
  messages: new Map(),
  /** Answers that are being written, by conversation: {message, abort, startedAt, ...}. */
  running: new Map(),
  /** What /v1/models says; null until it answers. */
  models: null,
  /** The ApiError of the last attempt to reach the server; null if it answered. */
  offline: null,
  /** Whether the browser keeps conversations; false where its storage is off. */
  keeps: true,
  /** {text, tone, action} of a short notice; null for none. */
  notice: null,
  /** What a screen reader is to say next. */
  announcement: "",
  /** The open dialog: {name, ...}; null for none. */
  dialog: null,
  sidebar: false,
});

let timer = 0;

/** Show a notice for a few seconds. `action` is {label, run}. */
export function notify(text, { tone = "plain", action = null } = {}) {
  clearTimeout(timer);
  state.set({ notice: { text, tone, action } });
  timer = setTimeout(() => state.set({ notice: null }), action || tone === "bad" ? 8000 : 4000);
}

/** Have a screen reader say something, also when it is what it said last. */
export function announce(text) {
  state.set({ announcement: state.get().announcement === text ? `${text}\u00a0` : text });
}

export const openDialog = (name, data = {}) => state.set({ dialog: { name, ...data } });
export const closeDialog = () => state.set({ dialog: null });

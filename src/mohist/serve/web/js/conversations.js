// Conversations as a person handles them: open, rename, delete, export. They are kept by database.js.

import * as database from "./database.js";
import { t } from "./i18n.js";
import { recover } from "./leaving.js";
import { go } from "./router.js";
import { notify, state } from "./state.js";

const tabs = "BroadcastChannel" in globalThis ? new BroadcastChannel("mohist") : null;

export const newId = () => crypto.randomUUID?.() ?? randomHex();

// Without HTTPS, on another machine's address, there is no randomUUID.
function randomHex() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Await a write to the database; say so, once, if the browser keeps nothing. */
export async function keep(writing) {
  try {
    await writing;
    tabs?.postMessage("changed");
  } catch (error) {
    if (state.get().keeps) notify(t("notKept", { why: error?.message ?? error }), { tone: "bad" });
    state.set({ keeps: false });
  }
}

export async function loadConversations() {
  try {
    await recover();
    state.set({ conversations: await database.listConversations() });
  } catch (error) {
    state.set({ conversations: [], keeps: false });
    notify(t("notKept", { why: error.message }), { tone: "bad" });
  }
  if (tabs) tabs.onmessage = async () => state.set({ conversations: await database.listConversations() });
}

/** Messages by conversation, where the browser keeps none: they last as long as the page. */
const remembered = new Map();

/** Show the conversation `id`; null for a new one. */
export async function open(id) {
  const { conversation, running, keeps, messages: shown } = state.get();
  if (conversation?.id === id) return;
  if (conversation && !keeps) remembered.set(conversation.id, shown);
  if (id === null) {
    state.set({ conversation: null, messages: new Map() });
    return;
  }
  const found = state.get().conversations.find((one) => one.id === id);
  if (!found) {
    go("#/");
    return;
  }
  const live = running.get(id);
  const messages = live?.messages ?? remembered.get(id) ?? byId(await database.loadMessages(id));
  if (state.get().route.id !== id) return; // Another one was opened meanwhile.
  state.set({ conversation: found, messages });
}

export const byId = (messages) => new Map(messages.map((message) => [message.id, message]));

/** Change a conversation's title, head or time, on the screen and in the database. */
export function update(conversation, patch, messages = []) {
  const changed = { ...conversation, ...patch };
  const { conversations, conversation: shown } = state.get();
  const others = conversations.filter((one) => one.id !== changed.id);
  const sorted = [changed, ...others].sort((a, b) => b.updated - a.updated);
  state.set({ conversations: sorted, ...(shown?.id === changed.id && { conversation: changed }) });
  keep(database.save(changed, messages));
  return changed;
}

export function rename(id, title) {
  const found = state.get().conversations.find((one) => one.id === id);
  if (found && title.trim()) update(found, { title: title.trim() });
}

export async function remove(id) {
  state.get().running.get(id)?.abort();
  const removed = state.get().conversations.find((one) => one.id === id);
  const messages = await database.loadMessages(id).catch(() => []);
  state.set({ conversations: state.get().conversations.filter((one) => one.id !== id) });
  if (state.get().route.id === id) go("#/");
  await keep(database.deleteConversation(id));
  const undo = () => update(removed, {}, messages);
  notify(t("deleted", { title: removed.title }), { action: { label: t("undo"), run: undo } });
}

export async function removeAll() {
  for (const { abort } of state.get().running.values()) abort();
  await keep(database.deleteEverything());
  state.set({ conversations: [] });
  go("#/");
}

/** A title from the first question: its first line, cut at a word. */
export function titleOf(text) {
  const line = text.trim().split("\n", 1)[0].replace(/\s+/g, " ");
  if (line.length <= 60) return line || t("untitled");
  const cut = line.slice(0, 60);
  return `${cut.slice(0, Math.max(cut.lastIndexOf(" "), 40))}…`;
}

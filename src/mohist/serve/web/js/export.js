// Conversations out of the browser and back: Markdown to read, JSON to keep.

import { loadConversations } from "./conversations.js";
import * as database from "./database.js";
import { locale, t } from "./i18n.js";
import { notify, state } from "./state.js";
import { path } from "./tree.js";
import { byId } from "./conversations.js";

const FORMAT = "mohist-conversations";

export function download(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

/** Save the branch of a conversation that is shown. */
export async function exportMarkdown(id) {
  const conversation = state.get().conversations.find((one) => one.id === id);
  const messages = byId(await database.loadMessages(id));
  download(`${fileName(conversation.title)}.md`, markdownOf(conversation, messages), "text/markdown");
}

export function markdownOf(conversation, messages) {
  const parts = path(messages, conversation.head).map((message) =>
    message.role === "user" ? questionMarkdown(message) : answerMarkdown(message),
  );
  const date = new Date(conversation.created).toLocaleString(locale());
  return [`# ${conversation.title}`, date, ...parts].join("\n\n") + "\n";
}

function questionMarkdown({ text, files = [] }) {
  const names = files.map((file) => `- ${file.name}`).join("\n");
  return [`## ${t("you")}`, names, text].filter(Boolean).join("\n\n");
}

function answerMarkdown({ text, reasoning, model }) {
  const thought = reasoning && `> ${reasoning.trim().replaceAll("\n", "\n> ")}`;
  return [`## ${model || t("model")}`, thought, text].filter(Boolean).join("\n\n");
}

/** Save conversations with all their branches, receipts and files; without `ids` all of them. */
export async function exportJson(ids = null) {
  const chosen = state.get().conversations.filter((one) => !ids || ids.includes(one.id));
  const conversations = [];
  for (const one of chosen) conversations.push({ ...one, messages: await database.loadMessages(one.id) });
  const name = chosen.length === 1 ? fileName(chosen[0].title) : `mohist-${new Date().toISOString().slice(0, 10)}`;
  const text = JSON.stringify({ format: FORMAT, version: 1, conversations }, null, 1);
  download(`${name}.json`, text, "application/json");
}

/** Take conversations from a file that `exportJson` wrote; those that are here already are replaced. */
export async function importJson(file) {
  let content;
  try {
    content = JSON.parse(await file.text());
  } catch {
    content = null; // Said below, like everything else that is not an export.
  }
  const conversations = content?.format === FORMAT ? content.conversations.filter(isConversation) : [];
  if (!conversations.length) return void notify(t("importUnknown", { name: file.name }), { tone: "bad" });
  for (const { messages, ...conversation } of conversations) await database.save(conversation, messages);
  await loadConversations();
  return void notify(t("imported", { n: conversations.length }));
}

function isConversation({ id, title, created, updated, head, messages }) {
  return (
    [id, title, head].every((value) => typeof value === "string") &&
    [created, updated].every(Number.isFinite) &&
    Array.isArray(messages) &&
    messages.every((one) => one.conversation === id && typeof one.id === "string" && typeof one.text === "string")
  );
}

const fileName = (title) => title.replace(/[\\/:*?"<>|\p{Cc}]+/gu, " ").trim().slice(0, 60) || "mohist";

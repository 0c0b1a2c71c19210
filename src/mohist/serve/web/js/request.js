// What is sent to the server for an answer.

import { settings } from "./settings.js";
import { path } from "./tree.js";

const SAMPLING = ["temperature", "top_p", "top_k", "max_tokens"];

/** The body of /v1/chat/completions for the unwritten `answer`. */
export function requestOf(messages, answer) {
  const chosen = settings.get();
  const request = {
    messages: messagesOf(path(messages, answer.parent), chosen.system),
    thinking: thinkingOf(answer.thinking, chosen.thinking_budget),
    seed: answer.seed,
    receipt: true,
  };
  if (answer.model) request.model = answer.model;
  for (const name of SAMPLING) if (chosen[name] !== null) request[name] = chosen[name];
  return request;
}

function thinkingOf(enabled, budget) {
  if (!enabled) return { type: "disabled" };
  return { type: "enabled", ...(budget !== null && { budget_tokens: budget }) };
}

function messagesOf(shown, system) {
  const turns = shown.map(({ role, text, files }) => ({
    role,
    content: role === "user" ? withFiles(text, files) : text,
  }));
  return system.trim() ? [{ role: "system", content: system.trim() }, ...turns] : turns;
}

/** A question with the files it is about, each under its name, before it. */
export function withFiles(text, files = []) {
  const parts = files.map((file) => `<file name="${file.name.replace(/["<>]/g, "_")}">\n${file.text}\n</file>`);
  return [...parts, text].filter(Boolean).join("\n\n");
}

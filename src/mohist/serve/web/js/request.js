// What is sent to the server for an answer.

import { isLocal, thinkingMode } from "./models.js";
import { settings } from "./settings.js";
import { path } from "./tree.js";

const SAMPLING = ["temperature", "top_p", "top_k", "max_tokens"];

/** The body of /v1/chat/completions for the unwritten `answer`. */
export function requestOf(messages, answer) {
  const chosen = settings.get();
  const request = {
    messages: messagesOf(path(messages, answer.parent), chosen.system),
    seed: answer.seed,
  };
  if (isLocal(answer.model)) request.receipt = true;
  if (answer.model) request.model = answer.model;
  const thinking = thinkingOf(thinkingMode(answer.model), answer.thinking, chosen.thinking_budget);
  if (thinking) request.thinking = thinking;
  for (const name of SAMPLING) if (chosen[name] !== null) request[name] = chosen[name];
  return request;
}

/** The field `thinking`; null where there is nothing to ask for. */
function thinkingOf(mode, wanted, budget) {
  if (mode === "never") return null;
  if (mode !== "always" && !wanted) return { type: "disabled" };
  const type = mode === "always" ? "adaptive" : "enabled";
  return { type, ...(budget !== null && { budget_tokens: budget }) };
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

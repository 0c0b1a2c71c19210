// What the page asks the server for. Every failure is an ApiError with a status, 0 where nothing answered.

import { apiKey } from "./settings.js";
import { events } from "./sse.js";

export class ApiError extends Error {
  constructor(status, message, { code = "", retryAfter = null } = {}) {
    super(message);
    this.status = status;
    this.code = code; // the server's name for what is wrong, where it has one
    this.retryAfter = retryAfter; // seconds, or null
  }
}

async function call(method, path, { body, type = "application/json", signal } = {}) {
  const headers = {};
  if (apiKey.get().key) headers.Authorization = `Bearer ${apiKey.get().key}`;
  if (body !== undefined) headers["Content-Type"] = type;
  const json = body !== undefined && type === "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, body: json ? JSON.stringify(body) : body, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, error.message);
  }
  if (!response.ok) throw await failure(response);
  return response;
}

async function failure(response) {
  const text = await response.text();
  let message = text.slice(0, 500);
  let code = "";
  try {
    const answer = JSON.parse(text);
    code = String(answer.error?.code ?? "");
    message = answer.error?.message ?? answer.detail ?? answer.message ?? message;
  } catch {
    // Not JSON, so not from Mohist: a proxy between us. Its text is all there is to show.
  }
  if (typeof message !== "string") message = JSON.stringify(message);
  const after = Number(response.headers.get("retry-after"));
  return new ApiError(response.status, message, { code, retryAfter: after > 0 ? after : null });
}

async function json(method, path, options) {
  const response = await call(method, path, options);
  return response.status === 204 ? null : response.json();
}

export const get = (path, options) => json("GET", path, options);
export const post = (path, body, options) => json("POST", path, { ...options, body });
export const put = (path, body) => json("PUT", path, { body });
export const patch = (path, body) => json("PATCH", path, { body });
export const remove = (path) => json("DELETE", path);
export const text = async (path) => (await call("GET", path)).text();

/** Chunks of a streamed answer. `request` is a body of /v1/chat/completions. Aborting `signal` ends it. */
export async function* streamChat(request, signal) {
  const body = { ...request, stream: true, stream_options: { include_usage: true } };
  const response = await call("POST", "/v1/chat/completions", { body, signal });
  let done = false;
  try {
    for await (const data of events(response.body)) {
      done = data === "[DONE]";
      if (done) continue;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(500, chunk.error.message, { code: chunk.error.code ?? "" });
      yield chunk;
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof ApiError) throw error;
    throw new ApiError(0, error.message);
  }
  if (!done) throw new ApiError(0, "");
}

/** How many tokens of `model` a text has. */
export async function countTokens(model, prompt, signal) {
  const body = { prompt, add_special_tokens: false, ...(model && { model }) };
  const answer = await post("/tokenize", body, { signal });
  return answer.count;
}

/** `{text, pages}` of a PDF file. */
export const readPdf = (file) => json("POST", "/v1/pdf/text", { body: file, type: "application/pdf" });

/** Whether the server gives a receipt's answer again: `{identical, first_difference: {index, expected, found}}`. */
export const replay = (receipt) => post("/v1/replay", receipt);

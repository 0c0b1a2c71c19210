// Asking and answering. A message is never changed once it is done: editing and asking again add siblings.
//
// A question: {id, conversation, parent, role: "user", created, text, files: [{name, text, tokens, pages}]}
// An answer:  {..., role: "assistant", text, reasoning, toolCalls, status, error, model, seed, thinking,
//              thinking_s, first_s, total_s, usage, cost, finish, receipt}
//             status: writing | done | stopped | failed

import { streamChat } from "./api.js";
import { costOf } from "./cost.js";
import { keep, newId, titleOf, update } from "./conversations.js";
import * as database from "./database.js";
import { t } from "./i18n.js";
import { whenLeaving } from "./leaving.js";
import { chosenModel, loadModels, modelCalled } from "./models.js";
import { requestOf } from "./request.js";
import { go } from "./router.js";
import { settings } from "./settings.js";
import { announce, state } from "./state.js";
import { leaf, siblings } from "./tree.js";

const DRAW_EVERY_MS = 50;
const SAVE_EVERY_MS = 1000;

/** Ask in the open conversation, or in a new one. */
export function ask(text, files = []) {
  const { conversation } = state.get();
  const now = Date.now();
  const target = conversation ?? { id: newId(), title: titleOf(text || files[0].name), created: now, head: null };
  question(target, conversation?.head ?? null, text, files);
}

/** Ask what a question asked in other words, beside it. */
export function edit(id, text) {
  const { conversation, messages } = state.get();
  const { parent, files } = messages.get(id);
  question(conversation, parent, text, files);
}

/** Have a question answered once more, beside the answer `id`. */
export function regenerate(id) {
  const { conversation, messages } = state.get();
  answer(conversation, messages, messages.get(id).parent);
}

/** Show another of the messages that stand where `id` stands: `step` places further. */
export function turn(id, step) {
  const { conversation, messages } = state.get();
  const all = siblings(messages, id);
  const chosen = all[all.indexOf(id) + step];
  if (chosen) update(conversation, { head: leaf(messages, chosen) });
}

/** Stop the answer that is being written in the open conversation. */
export function stop() {
  state.get().running.get(state.get().conversation?.id)?.abort();
}

function question(conversation, parent, text, files) {
  const message = { id: newId(), conversation: conversation.id, parent, role: "user", created: Date.now(), text, files };
  const messages = new Map(state.get().messages).set(message.id, message);
  const changed = update(conversation, { head: message.id, updated: message.created }, [message]);
  state.set({ conversation: changed, messages });
  go(`#/c/${changed.id}`);
  answer(changed, messages, message.id);
}

async function answer(conversation, messages, parent) {
  const { thinking, seed } = settings.get();
  const twins = [...messages.values()].filter((one) => one.parent === parent).length;
  const message = {
    id: newId(),
    conversation: conversation.id,
    parent,
    role: "assistant",
    created: Math.max(Date.now(), messages.get(parent).created + 1),
    text: "",
    reasoning: "",
    toolCalls: [],
    status: "writing",
    model: chosenModel(),
    thinking,
    // Equal seeds give equal answers: asking again moves a fixed seed on, so that something new may come.
    seed: seed === null ? crypto.getRandomValues(new Uint32Array(1))[0] : seed + twins,
  };
  const live = new Live(conversation.id, messages, message);
  update(conversation, { head: message.id, updated: message.created }, [message]);
  announce(t("announceStarted"));
  await live.run(requestOf(live.messages, message));
  // A model that was loaded for this answer can say more about itself now.
  if (!modelCalled(message.model)?.thinking) loadModels();
  announce(t(`announce_${live.message.status}`, { n: live.message.usage?.completion_tokens ?? 0 }));
}

/** One answer on its way, in the open conversation or in another. */
class Live {
  constructor(conversation, messages, message) {
    this.conversation = conversation;
    this.messages = messages;
    this.message = message;
    this.controller = new AbortController();
    this.startedAt = performance.now();
    this.timer = 0;
    this.savedAt = 0;
    state.get().running.get(conversation)?.abort();
    setRunning(conversation, this);
    this.draw();
  }

  abort() {
    this.controller.abort();
  }

  async run(request) {
    try {
      for await (const chunk of streamChat(request, this.controller.signal)) this.take(chunk);
      this.message = { ...this.message, status: "done" };
    } catch (error) {
      const stopped = error.name === "AbortError";
      const { status, code, message, retryAfter } = error;
      const failed = { status: "failed", error: { status, code, message, retryAfter } };
      const patch = stopped ? { status: "stopped" } : failed;
      this.message = { ...this.message, ...patch };
      if (!stopped && status === undefined) throw error;
    } finally {
      this.endThinking();
      clearTimeout(this.timer);
      this.message = { ...this.message, total_s: this.elapsed(), cost: costOf(this.message) };
      this.draw();
      if (state.get().running.get(this.conversation) === this) setRunning(this.conversation, null);
      await keep(database.saveMessage(this.message));
    }
  }

  take(chunk) {
    const patch = {};
    if (chunk.model) patch.model = chunk.model;
    if (chunk.usage) patch.usage = chunk.usage;
    if (chunk.receipt) patch.receipt = chunk.receipt;
    const choice = chunk.choices?.[0];
    const reasoning = choice?.delta?.reasoning_content ?? choice?.delta?.reasoning ?? "";
    const content = choice?.delta?.content ?? "";
    const calls = choice?.delta?.tool_calls ?? [];
    if (reasoning) patch.reasoning = this.message.reasoning + reasoning;
    if (content) patch.text = this.message.text + content;
    if (calls.length) patch.toolCalls = calls.reduce(withCall, this.message.toolCalls);
    if (choice?.finish_reason) patch.finish = choice.finish_reason;
    if ((reasoning || content || calls.length) && this.message.first_s === undefined) patch.first_s = this.elapsed();
    this.message = { ...this.message, ...patch };
    if (content || calls.length) this.endThinking();
    this.timer ||= setTimeout(() => this.draw(), DRAW_EVERY_MS);
  }

  endThinking() {
    if (this.message.reasoning && this.message.thinking_s === undefined) {
      this.message = { ...this.message, thinking_s: this.elapsed() - (this.message.first_s ?? 0) };
    }
  }

  elapsed() {
    return (performance.now() - this.startedAt) / 1000;
  }

  draw() {
    this.timer = 0;
    // The title or head may have changed, and other messages may have come, since the answer began.
    const shown = state.get().conversation?.id === this.conversation;
    const messages = shown ? state.get().messages : this.messages;
    this.messages = new Map(messages).set(this.message.id, this.message);
    if (shown) state.set({ messages: this.messages });
    if (performance.now() - this.savedAt > SAVE_EVERY_MS) this.save();
  }

  save() {
    this.savedAt = performance.now();
    keep(database.saveMessage(this.message));
  }
}

function setRunning(conversation, live) {
  const running = new Map(state.get().running);
  if (live) running.set(conversation, live);
  else running.delete(conversation);
  state.set({ running });
}

/** Tool calls with one more piece: the first piece of a call has its name, later ones go on with its arguments. */
function withCall(calls, piece) {
  const next = [...calls];
  const at = piece.index ?? next.length;
  const { name = "", arguments: text = "" } = piece.function ?? {};
  next[at] = { name: (next[at]?.name ?? "") + name, arguments: (next[at]?.arguments ?? "") + text };
  return next;
}

// A page that goes away keeps what has come so far.
whenLeaving(() => [...state.get().running.values()].map((live) => ["messages", live.message]));

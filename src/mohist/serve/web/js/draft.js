// What is being written: the text, the files with it, and how many tokens they come to. Kept for each
// conversation, so that neither a reload nor a look at another conversation loses it.

import { ask } from "./chat.js";
import { ApiError, countTokens } from "./api.js";
import { keep } from "./conversations.js";
import { loadDraft, saveDraft } from "./database.js";
import { readFile } from "./files.js";
import { t } from "./i18n.js";
import { whenLeaving } from "./leaving.js";
import { chosenModel, isLocal } from "./models.js";
import { withFiles } from "./request.js";
import { announce, notify } from "./state.js";
import { createStore } from "./store.js";

const SAVE_AFTER_MS = 300;
const COUNT_AFTER_MS = 400;

/** `tokens` is null while it is unknown; `reading` is how many files are being read. */
const EMPTY = { id: "new", text: "", files: [], tokens: null, reading: 0 };
export const draft = createStore(EMPTY);

let saving = 0; // the timer of a write to come; 0 while the database has everything
let counting = { timer: 0, abort: null };

/** Bring back what was written in a conversation; `id` is null for a new one. */
export async function openDraft(id) {
  const name = id ?? "new";
  flush();
  draft.set({ ...EMPTY, id: name });
  const kept = await loadDraft(name).catch(() => null);
  const now = draft.get();
  // Whoever began to type while the database was read goes on with that.
  if (now.id !== name || !kept || now.text || now.files.length) return;
  draft.set({ text: kept.text, files: kept.files });
  count();
}

export function type(text) {
  draft.set({ text });
  changed();
}

export async function attach(files) {
  for (const file of files) {
    draft.set({ reading: draft.get().reading + 1 });
    try {
      const read = await readFile(file);
      draft.set({ files: [...draft.get().files, read] });
      announce(t("attached", { name: read.name }));
    } catch (error) {
      notify(error.message, { tone: "bad" });
    } finally {
      draft.set({ reading: draft.get().reading - 1 });
    }
  }
  changed();
}

export function detach(id) {
  draft.set({ files: draft.get().files.filter((file) => file.id !== id) });
  changed();
}

/** Ask what was written. Does nothing while there is nothing, or while files are being read. */
export function submit() {
  const { id, text, files, reading } = draft.get();
  if (reading || !(text.trim() || files.length)) return;
  draft.set({ ...EMPTY, id });
  changed();
  ask(text.trim(), files);
}

function changed() {
  clearTimeout(saving);
  saving = setTimeout(flush, SAVE_AFTER_MS);
  count();
}

function flush() {
  if (!saving) return;
  clearTimeout(saving);
  saving = 0;
  const { id, text, files } = draft.get();
  keep(saveDraft(id, text, files));
}

function count() {
  clearTimeout(counting.timer);
  counting.abort?.abort();
  const { text, files } = draft.get();
  const whole = withFiles(text, files);
  if (!whole || !isLocal(chosenModel())) draft.set({ tokens: null });
  else counting.timer = setTimeout(() => requestCount(whole), COUNT_AFTER_MS);
}

async function requestCount(whole) {
  counting.abort = new AbortController();
  try {
    draft.set({ tokens: await countTokens(chosenModel(), whole, counting.abort.signal) });
  } catch (error) {
    // A count is a help, not a must: without one the draft can be sent as well.
    if (error instanceof ApiError) draft.set({ tokens: null });
    else if (error.name !== "AbortError") throw error;
  }
}

whenLeaving(() => {
  const { id, text, files } = draft.get();
  return saving ? [["drafts", { id, text, files }]] : [];
});

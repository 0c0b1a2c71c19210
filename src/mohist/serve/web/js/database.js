// Conversations, kept in the browser with IndexedDB: it has room for long documents where localStorage ends at
// about five megabytes, and writes one message at a time without holding up the page.
//
//   conversations  {id, title, created, updated, head}
//   messages       {id, conversation, parent, role, text, created, ...}   (see chat.js)
//   drafts         {id, text, files}   what was typed but not sent; id is the conversation's, or "new"

const NAME = "mohist";
const VERSION = 1;

let opening = null;

function open() {
  opening ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, VERSION);
    request.onupgradeneeded = () => {
      const database = request.result;
      database.createObjectStore("conversations", { keyPath: "id" });
      database.createObjectStore("messages", { keyPath: "id" }).createIndex("conversation", "conversation");
      database.createObjectStore("drafts", { keyPath: "id" });
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error("another tab holds an older version of the database"));
  });
  return opening;
}

/** Run `work(stores)` in one transaction; resolves when it is committed, with what `work`'s request found. */
async function transaction(names, mode, work) {
  const database = await open();
  return new Promise((resolve, reject) => {
    const running = database.transaction(names, mode);
    const request = work(...names.map((name) => running.objectStore(name)));
    running.oncomplete = () => resolve(request?.result);
    running.onerror = running.onabort = () => reject(running.error);
  });
}

/** All conversations, the last changed first. */
export async function listConversations() {
  const all = await transaction(["conversations"], "readonly", (store) => store.getAll());
  return all.sort((a, b) => b.updated - a.updated);
}

/** The messages of a conversation, oldest first. */
export async function loadMessages(conversation) {
  const found = await transaction(["messages"], "readonly", (store) =>
    store.index("conversation").getAll(conversation),
  );
  return found.sort((a, b) => a.created - b.created);
}

/** Keep a conversation and some of its messages, together. */
export function save(conversation, messages = []) {
  return transaction(["conversations", "messages"], "readwrite", (conversations, store) => {
    conversations.put(conversation);
    for (const message of messages) store.put(message);
  });
}

/** Keep one message whose conversation did not change. */
export function saveMessage(message) {
  return transaction(["messages"], "readwrite", (store) => void store.put(message));
}

/** Keep `[store, row]` pairs. */
export function putRows(rows) {
  return transaction(["conversations", "messages", "drafts"], "readwrite", (conversations, messages, drafts) => {
    const stores = { conversations, messages, drafts };
    for (const [name, row] of rows) stores[name].put(row);
  });
}

export function deleteConversation(id) {
  return transaction(["conversations", "messages", "drafts"], "readwrite", (conversations, messages, drafts) => {
    conversations.delete(id);
    drafts.delete(id);
    const keys = messages.index("conversation").getAllKeys(id);
    keys.onsuccess = () => keys.result.forEach((key) => messages.delete(key));
  });
}

export function deleteEverything() {
  return transaction(["conversations", "messages", "drafts"], "readwrite", (...stores) => {
    for (const store of stores) store.clear();
  });
}

/** The ids of conversations in which every word of `query` stands somewhere in the title or in one message. */
export async function search(query) {
  const words = query.toLocaleLowerCase().split(/\s+/).filter(Boolean);
  const matches = (text) => words.every((word) => text.includes(word));
  const found = new Set();
  const database = await open();
  await new Promise((resolve, reject) => {
    const running = database.transaction(["conversations", "messages"], "readonly");
    each(running.objectStore("conversations"), ({ id, title }) => {
      if (matches(title.toLocaleLowerCase())) found.add(id);
    });
    each(running.objectStore("messages"), ({ conversation, text, files }) => {
      if (found.has(conversation)) return;
      const names = (files ?? []).map((file) => file.name).join(" ");
      if (matches(`${text} ${names}`.toLocaleLowerCase())) found.add(conversation);
    });
    running.oncomplete = resolve;
    running.onerror = running.onabort = () => reject(running.error);
  });
  return found;
}

function each(store, visit) {
  const request = store.openCursor();
  request.onsuccess = () => {
    const cursor = request.result;
    if (!cursor) return;
    visit(cursor.value);
    cursor.continue();
  };
}

export function loadDraft(id) {
  return transaction(["drafts"], "readonly", (store) => store.get(id));
}

/** Keep what was typed; an empty draft is forgotten. */
export function saveDraft(id, text, files) {
  return transaction(["drafts"], "readwrite", (store) => {
    if (text || files.length) store.put({ id, text, files });
    else store.delete(id);
  });
}

// Addresses: `#/` a new conversation, `#/c/ID` one of them, `#/admin` the operator's view.

import { state } from "./state.js";

export function parse(hash) {
  const [, view, id] = hash.replace(/^#/, "").split("/");
  if (view === "admin") return { view: "admin", id: null };
  return { view: "chat", id: view === "c" && id ? id : null };
}

/** Go to an address; going to where one is changes nothing. */
export function go(hash, { replace = false } = {}) {
  if (location.hash === hash || (hash === "#/" && location.hash === "")) return;
  history[replace ? "replaceState" : "pushState"](null, "", hash);
  follow();
}

export function follow() {
  state.set({ route: parse(location.hash), sidebar: false });
}

addEventListener("popstate", follow);

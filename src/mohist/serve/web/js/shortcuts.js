// Keys that work everywhere on the page. Those of a field are with the field.

import { stop } from "./chat.js";
import { go } from "./router.js";
import { closeDialog, openDialog, state } from "./state.js";

const focus = (id) => document.getElementById(id)?.focus();

const WITH_MODIFIER = {
  k: () => {
    state.set({ sidebar: true });
    focus("search"); // at once, for what is typed next
    if (document.activeElement?.id === "search") return;
    requestAnimationFrame(() => focus("search")); // it was hidden, and is drawn only now
  },
  "/": () => (state.get().dialog ? closeDialog() : openDialog("shortcuts")),
};

const WITH_MODIFIER_AND_SHIFT = {
  o: () => {
    go("#/");
    focus("message");
  },
  l: () => focus("message"),
};

export function installShortcuts() {
  addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if (event.key === "Escape" && !state.get().dialog) {
      if (state.get().sidebar) state.set({ sidebar: false });
      else stop();
      return;
    }
    if (!(event.ctrlKey || event.metaKey) || event.altKey) return;
    const run = (event.shiftKey ? WITH_MODIFIER_AND_SHIFT : WITH_MODIFIER)[event.key.toLowerCase()];
    if (!run) return;
    event.preventDefault();
    run();
  });
}

// Copying, also where the page is not served over HTTPS and the clipboard API is missing.

import { t } from "./i18n.js";
import { announce, notify } from "./state.js";

/** Put a text on the clipboard; whether that worked. */
export async function copyText(text) {
  const copied = navigator.clipboard
    ? await navigator.clipboard.writeText(text).then(
        () => true,
        () => copyBySelection(text),
      )
    : copyBySelection(text);
  if (copied) announce(t("copied"));
  else notify(t("notCopied"), { tone: "bad" });
  return copied;
}

function copyBySelection(text) {
  const field = document.createElement("textarea");
  field.value = text;
  field.className = "visually-hidden";
  const before = document.activeElement;
  (document.querySelector("dialog[open]") ?? document.body).append(field);
  field.select();
  const copied = document.execCommand("copy");
  field.remove();
  before?.focus();
  return copied;
}

// Copy buttons in Markdown are plain elements: one listener serves them all.
document.addEventListener("click", async (event) => {
  const button = event.target.closest?.("[data-copy-code]");
  if (!button) return;
  if (!(await copyText(button.closest("figure").querySelector("code").textContent))) return;
  button.textContent = t("copied");
  setTimeout(() => (button.textContent = t("copy")), 1500);
});

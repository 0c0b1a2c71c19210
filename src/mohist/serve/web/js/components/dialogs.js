import { html, useState } from "../../vendor/preact.js";
import { copyText } from "../clipboard.js";
import { remove, rename } from "../conversations.js";
import { exportJson, exportMarkdown } from "../export.js";
import { t } from "../i18n.js";
import { closeDialog, state } from "../state.js";
import { useStore } from "../store.js";
import { Dialog } from "./dialog.js";
import { ReceiptDialog } from "./receipt.js";
import { SettingsDialog } from "./settings.js";

const DIALOGS = {
  conversation: ConversationDialog,
  file: FileDialog,
  receipt: ReceiptDialog,
  settings: SettingsDialog,
  shortcuts: ShortcutsDialog,
};

/** The open dialog, if any. */
export function Dialogs() {
  const dialog = useStore(state, (value) => value.dialog);
  return dialog && html`<${DIALOGS[dialog.name]} ...${dialog} />`;
}

function ConversationDialog({ id }) {
  const conversation = state.get().conversations.find((one) => one.id === id);
  const [title, setTitle] = useState(conversation.title);
  const save = (event) => {
    event.preventDefault();
    rename(id, title);
    closeDialog();
  };
  const discard = () => {
    closeDialog();
    remove(id);
  };
  return html`<${Dialog} title=${t("conversation")}>
    <form class="stack" onSubmit=${save}>
      <label class="field">
        <span>${t("title")}</span>
        <input id="title" value=${title} dir="auto" onInput=${(event) => setTitle(event.currentTarget.value)} />
      </label>
      <div class="row end"><button type="submit" class="primary">${t("rename")}</button></div>
    </form>
    <div class="row wrap">
      <button type="button" class="quiet" onClick=${() => exportMarkdown(id)}>${t("exportMarkdown")}</button>
      <button type="button" class="quiet" onClick=${() => exportJson([id])}>${t("exportJson")}</button>
      <button type="button" class="danger" onClick=${discard}>${t("delete")}</button>
    </div>
  <//>`;
}

function FileDialog({ file }) {
  return html`<${Dialog} title=${file.name} wide>
    <pre class="file-text" tabindex="0">${file.text}</pre>
    <div class="row end"><button type="button" class="quiet" onClick=${() => copyText(file.text)}>${t("copy")}</button></div>
  <//>`;
}

function ShortcutsDialog() {
  const modifier = /Mac|iPhone|iPad/.test(navigator.platform) ? "⌘" : "Ctrl";
  const all = [
    ["Enter", t("send")],
    ["Shift+Enter", t("newLine")],
    ["Esc", t("stop")],
    ["↑", t("editLast")],
    [`${modifier}+K`, t("searchConversations")],
    [`${modifier}+Shift+O`, t("newConversation")],
    [`${modifier}+Shift+L`, t("focusMessage")],
    [`${modifier}+/`, t("shortcuts")],
  ];
  return html`<${Dialog} title=${t("shortcuts")}>
    <dl class="shortcuts">
      ${all.map(
        ([keys, what]) => html`<div>
          <dt>${keys.split("+").map((key) => html`<kbd>${key}</kbd>`)}</dt>
          <dd>${what}</dd>
        </div>`,
      )}
    </dl>
  <//>`;
}

import { html, useEffect, useRef, useState } from "../../vendor/preact.js";
import { edit, regenerate, turn } from "../chat.js";
import { number, t } from "../i18n.js";
import { openDialog } from "../state.js";
import { copyText } from "../clipboard.js";
import { Answer } from "./answer.js";
import { IconButton } from "./icon.js";
import { FileChip } from "./files.js";
import { memo } from "./memo.js";

/** One message of the conversation. `place` of `count` siblings is shown where there is a choice. */
export const Message = memo(({ message, place, count, running, now }) => {
  const [editing, setEditing] = useState(false);
  const mine = message.role === "user";
  return html`<li class=${mine ? "question" : "answer"} id=${`m-${message.id}`}>
    <h2 class="visually-hidden">${t(mine ? "you" : "model")}</h2>
    ${
      mine
        ? html`<${Question} message=${message} editing=${editing} stopEditing=${() => setEditing(false)} />`
        : html`<${Answer} message=${message} running=${running} now=${now} />`
    }
    ${
      !editing &&
      !(message.status === "writing" && running) &&
      html`<div class="actions">
        ${count > 1 && html`<${Branches} id=${message.id} place=${place} count=${count} />`}
        ${message.text && html`<${CopyButton} text=${message.text} />`}
        ${
          mine
            ? html`<${IconButton} icon="edit" label=${t("edit")} onClick=${() => setEditing(true)} />`
            : html`${
                  message.status !== "failed" &&
                  html`<${IconButton} icon="again" label=${t("regenerate")} onClick=${() => regenerate(message.id)} />`
                }
                ${
                  message.receipt &&
                  html`<${IconButton}
                    icon="receipt"
                    label=${t("receipt")}
                    onClick=${() => openDialog("receipt", { message })}
                  />`
                }`
        }
      </div>`
    }
  </li>`;
});

function Question({ message, editing, stopEditing }) {
  if (editing) return html`<${Editor} message=${message} done=${stopEditing} />`;
  return html`
    ${message.files?.length > 0 && html`<ul class="files">${message.files.map((file) => html`<${FileChip} file=${file} />`)}</ul>`}
    ${message.text && html`<div class="bubble" dir="auto">${message.text}</div>`}
  `;
}

function Editor({ message, done }) {
  const [text, setText] = useState(message.text);
  const field = useRef(null);
  useEffect(() => {
    field.current.focus();
    field.current.setSelectionRange(text.length, text.length);
  }, []);
  const submit = (event) => {
    event.preventDefault();
    done();
    if (text.trim() && text !== message.text) edit(message.id, text.trim());
  };
  const keys = (event) => {
    if (event.isComposing) return;
    if (event.key === "Escape") {
      event.stopPropagation();
      done();
    } else if (event.key === "Enter" && !event.shiftKey) submit(event);
  };
  return html`<form class="editor" onSubmit=${submit}>
    <textarea
      aria-label=${t("editQuestion")}
      value=${text}
      rows="3"
      ref=${field}
      onInput=${(event) => setText(event.currentTarget.value)}
      onKeyDown=${keys}
    ></textarea>
    <div class="row end">
      <button type="button" class="quiet" onClick=${done}>${t("cancel")}</button>
      <button type="submit" class="primary">${t("askAgain")}</button>
    </div>
  </form>`;
}

function Branches({ id, place, count }) {
  return html`<div class="branches" role="group" aria-label=${t("versions")}>
    <${IconButton} icon="left" label=${t("previousVersion")} disabled=${place === 1} onClick=${() => turn(id, -1)} />
    <span>${number(place)} / ${number(count)}</span>
    <${IconButton} icon="right" label=${t("nextVersion")} disabled=${place === count} onClick=${() => turn(id, 1)} />
  </div>`;
}

function CopyButton({ text }) {
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    if (!(await copyText(text))) return;
    setCopied(true);
    setTimeout(() => setCopied(false), 1500);
  };
  return html`<${IconButton} icon=${copied ? "check" : "copy"} label=${t(copied ? "copied" : "copy")} onClick=${copy} />`;
}

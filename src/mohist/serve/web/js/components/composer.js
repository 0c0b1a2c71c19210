import { html, useEffect, useRef, useState } from "../../vendor/preact.js";
import { stop } from "../chat.js";
import { attach, detach, draft, submit, type } from "../draft.js";
import { filesOf } from "../files.js";
import { t } from "../i18n.js";
import { chosenModel, modelCalled, thinkingMode } from "../models.js";
import { change, settings } from "../settings.js";
import { state } from "../state.js";
import { useStore } from "../store.js";
import { FileChip } from "./files.js";
import { Icon, IconButton } from "./icon.js";

/** Where one writes: text, files, the switch for deep thinking, and the button that sends or stops. */
export function Composer() {
  const { text, files, tokens, reading } = useStore(draft, (value) => value);
  const running = useStore(state, ({ running, conversation }) => running.has(conversation?.id));
  const [over, setOver] = useState(false);
  const empty = !text.trim() && !files.length;

  const drop = (event) => {
    event.preventDefault();
    setOver(false);
    attach(filesOf(event.dataTransfer));
  };
  return html`<form
    class=${`composer ${over ? "over" : ""}`}
    aria-label=${t("yourMessage")}
    onSubmit=${(event) => (event.preventDefault(), running || submit())}
    onDragOver=${(event) => (event.preventDefault(), setOver(true))}
    onDragLeave=${() => setOver(false)}
    onDrop=${drop}
  >
    ${
      files.length + reading > 0 &&
      html`<ul class="files" aria-label=${t("files")}>
        ${files.map((file) => html`<${FileChip} key=${file.id} file=${file} remove=${() => detach(file.id)} />`)}
        ${reading > 0 && html`<li class="chip reading">${t("readingFiles", { n: reading })}</li>`}
      </ul>`
    }
    <${Field} text=${text} running=${running} />
    <div class="row">
      <${AttachButton} />
      <${ThinkingSwitch} />
      <${TokenCount} tokens=${tokens} />
      ${
        running
          ? html`<${IconButton} class="send" icon="stop" label=${t("stop")} onClick=${stop} />`
          : html`<button class="icon-button send" type="submit" aria-label=${t("send")} title=${t("send")} disabled=${empty || reading > 0}>
              <${Icon} name="send" />
            </button>`
      }
    </div>
  </form>`;
}

function ThinkingSwitch() {
  const wanted = useStore(settings, (value) => value.thinking);
  useStore(settings, (value) => value.model);
  useStore(state, (value) => value.models);
  const mode = thinkingMode(chosenModel());
  const fixed = mode === "always" || mode === "never";
  return html`<button
    type="button"
    class="toggle"
    aria-pressed=${mode === "always" || (wanted && mode !== "never")}
    disabled=${fixed}
    title=${fixed ? t(`${mode}Thinks`) : null}
    onClick=${() => change({ thinking: !wanted })}
  >
    <${Icon} name="think" /><span>${t("deepThinking")}</span>
  </button>`;
}

/** How many tokens the draft has, and, where they alone are too many, how many fit. */
function TokenCount({ tokens }) {
  const most = modelCalled(chosenModel())?.context_length ?? Infinity;
  const over = tokens !== null && tokens >= most;
  const text = tokens === null ? "" : t(over ? "tokensOf" : "tokens", { n: tokens, most });
  return html`<span class=${`tokens ${over ? "over" : ""}`}>${text}</span>`;
}

function Field({ text, running }) {
  const field = useRef(null);
  const conversation = useStore(state, (value) => value.route.id);
  useEffect(() => {
    // On a touch screen the focus would bring the keyboard over what one came to read.
    if (!matchMedia("(pointer: coarse)").matches) field.current.focus();
  }, [conversation]);
  useEffect(() => grow(field.current), [text]);

  const keys = (event) => {
    // While an input method composes, Enter belongs to it (229 is Safari's way of saying so).
    if (event.isComposing || event.keyCode === 229) return;
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      if (!running) submit();
    } else if (event.key === "ArrowUp" && text === "") {
      editLastQuestion(event);
    }
  };
  const paste = (event) => {
    const files = filesOf(event.clipboardData);
    if (!files.length) return;
    event.preventDefault();
    attach(files);
  };
  return html`<textarea
    id="message"
    ref=${field}
    rows="1"
    dir="auto"
    value=${text}
    aria-label=${t("yourMessage")}
    placeholder=${t("placeholder")}
    onInput=${(event) => type(event.currentTarget.value)}
    onKeyDown=${keys}
    onPaste=${paste}
  ></textarea>`;
}

/** As high as its text; CSS sets the most. */
function grow(field) {
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight}px`;
}

function editLastQuestion(event) {
  const buttons = document.querySelectorAll(`.question .actions [aria-label="${t("edit")}"]`);
  if (!buttons.length) return;
  event.preventDefault();
  buttons[buttons.length - 1].click();
}

function AttachButton() {
  const input = useRef(null);
  const chosen = (event) => {
    attach([...event.currentTarget.files]);
    event.currentTarget.value = ""; // So that the same file can be chosen again.
  };
  return html`
    <${IconButton} icon="clip" label=${t("attach")} onClick=${() => input.current.click()} />
    <input ref=${input} type="file" multiple hidden aria-label=${t("attach")} onChange=${chosen} />
  `;
}

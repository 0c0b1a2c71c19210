import { html, useRef, useState } from "../../vendor/preact.js";
import { removeAll } from "../conversations.js";
import { exportJson, importJson } from "../export.js";
import { t } from "../i18n.js";
import { loadModels } from "../models.js";
import { apiKey, change, resetSampling, setApiKey, settings } from "../settings.js";
import { closeDialog, notify, state } from "../state.js";
import { useStore } from "../store.js";
import { Dialog } from "./dialog.js";

/** What a person may choose, and what they may do with all that is kept. */
export function SettingsDialog() {
  return html`<${Dialog} title=${t("settings")}>
    <${Look} />
    <${Answers} />
    <${Key} />
    <${Data} />
  <//>`;
}

function Look() {
  const { theme, language } = useStore(settings, (value) => value);
  return html`<section class="pair">
    <label class="field">
      <span>${t("language")}</span>
      <select id="language" value=${language} onChange=${(event) => change({ language: event.currentTarget.value })}>
        <option value="auto">${t("asBrowser")}</option>
        <option value="en" lang="en">English</option>
        <option value="zh" lang="zh-Hans">中文</option>
      </select>
    </label>
    <label class="field">
      <span>${t("theme")}</span>
      <select id="theme" value=${theme} onChange=${(event) => change({ theme: event.currentTarget.value })}>
        <option value="auto">${t("asSystem")}</option>
        <option value="light">${t("light")}</option>
        <option value="dark">${t("dark")}</option>
      </select>
    </label>
  </section>`;
}

// [name, least, most, step]
const NUMBERS = [
  ["temperature", 0, 2, 0.05],
  ["top_p", 0.01, 1, 0.01],
  ["top_k", 0, 1000, 1],
  ["max_tokens", 1, 1_000_000, 1],
  ["thinking_budget", 1, 1_000_000, 1],
  ["seed", 0, 2 ** 32 - 1, 1],
];

function Answers() {
  const chosen = useStore(settings, (value) => value);
  const set = (name, least, most) => (event) => {
    const value = event.currentTarget.value.trim();
    if (event.currentTarget.validity.valid) {
      change({ [name]: value === "" ? null : Math.min(Math.max(Number(value), least), most) });
    }
  };
  return html`<section>
    <h3>${t("answers")}</h3>
    <label class="field">
      <span>${t("system")}</span>
      <textarea
        id="system"
        rows="3"
        dir="auto"
        value=${chosen.system}
        placeholder=${t("systemHint")}
        onInput=${(event) => change({ system: event.currentTarget.value })}
      ></textarea>
    </label>
    <div class="numbers">
      ${NUMBERS.map(
        ([name, least, most, step]) => html`<label class="field">
          <span>${t(`set_${name}`)}</span>
          <input
            id=${name}
            type="number"
            min=${least}
            max=${most}
            step=${step}
            value=${chosen[name] ?? ""}
            placeholder=${t(name === "seed" ? "newEachTime" : "byServer")}
            onChange=${set(name, least, most)}
          />
        </label>`,
      )}
    </div>
    <div class="row end"><button type="button" class="quiet" onClick=${resetSampling}>${t("resetSampling")}</button></div>
  </section>`;
}

function Key() {
  const kept = useStore(apiKey, (value) => value);
  const offline = useStore(state, (value) => value.offline);
  const [key, setKey] = useState(kept.key);
  const [remembered, setRemembered] = useState(kept.remembered);
  const save = async (event) => {
    event.preventDefault();
    setApiKey(key.trim(), remembered);
    await loadModels();
    if (!state.get().offline) notify(t("keyAccepted"));
  };
  return html`<section>
    <h3>${t("access")}</h3>
    <form class="stack" onSubmit=${save}>
      <label class="field">
        <span>${t("apiKey")}</span>
        <input
          id="api-key"
          type="password"
          autocomplete="off"
          spellcheck=${false}
          value=${key}
          placeholder=${t("noKeyNeeded")}
          onInput=${(event) => setKey(event.currentTarget.value)}
        />
      </label>
      ${offline && html`<p class="verdict bad">${offline.message}</p>`}
      <div class="row between">
        <label class="check">
          <input
            id="remember"
            type="checkbox"
            checked=${remembered}
            onChange=${(event) => setRemembered(event.currentTarget.checked)}
          />
          <span>${t("rememberKey")}</span>
        </label>
        <button type="submit" class="quiet">${t("useKey")}</button>
      </div>
    </form>
  </section>`;
}

function Data() {
  const input = useRef(null);
  const [sure, setSure] = useState(false);
  const discard = () => {
    if (!sure) return setSure(true);
    closeDialog();
    return removeAll();
  };
  return html`<section>
    <h3>${t("conversations")}</h3>
    <p class="hint">${t("private")}</p>
    <div class="row wrap">
      <button type="button" class="quiet" onClick=${() => exportJson()}>${t("exportAll")}</button>
      <button type="button" class="quiet" onClick=${() => input.current.click()}>${t("import")}</button>
      <button type="button" class="danger" onClick=${discard}>${t(sure ? "deleteAllSure" : "deleteAll")}</button>
    </div>
    <input
      ref=${input}
      type="file"
      accept=".json,application/json"
      hidden
      aria-label=${t("import")}
      onChange=${(event) => importJson(event.currentTarget.files[0])}
    />
  </section>`;
}

import { html, useState } from "../../vendor/preact.js";
import { put, remove } from "../api.js";
import { bytes, number, t } from "../i18n.js";
import { loadModels } from "../models.js";
import { attempt } from "./load.js";
import { LoadModel, unusualSettings } from "./new_model.js";
import { Changes } from "./changes.js";
import { Table } from "./table.js";

/** Which models there are and what they are called; loading, unloading, switching aliases. */
export function Models({ data, reload }) {
  const changed = async (doing) => {
    if ((await attempt(doing)) === undefined) return;
    await Promise.all([reload(), loadModels()]);
  };
  const columns = [
    [t("name"), (model) => html`<${Name} model=${model} />`],
    [t("aliases"), (model) => model.aliases.join(", ")],
    [t("state"), (model) => html`<${State} model=${model} />`],
    [t("requests"), (model) => number(model.requests), true],
    [t("memory"), (model) => (model.memory_bytes ? bytes(model.memory_bytes) : "–"), true],
    ["", (model) => html`<${Unload} model=${model} changed=${changed} />`],
  ];
  return html`<section aria-labelledby="models">
    <h2 id="models">${t("models")}</h2>
    <${Table} label=${t("models")} columns=${columns} rows=${data.models} name=${(model) => model.name} />
    <${Changes} changes=${data.changes} />
    <div class="forms">
      <${LoadModel} changed=${changed} />
      <${Switch} models=${data.models} aliases=${data.aliases} changed=${changed} />
    </div>
  </section>`;
}

function Name({ model }) {
  const unusual = model.settings ? unusualSettings(model.settings) : "";
  return html`<strong>${model.name}</strong><br /><small>${model.source}</small>
    ${unusual && html`<br /><small>${unusual}</small>`}`;
}

function State({ model }) {
  const words = t(`state_${model.state.replace(" ", "_")}`);
  return model.error ? html`<span class="bad">${words}</span><br /><small class="reason">${model.error}</small>` : words;
}

function Unload({ model, changed }) {
  if (model.state === "leaving") return null;
  const run = () => changed(remove(`/admin/models/${encodeURI(model.name)}`));
  return html`<button type="button" class="quiet" aria-label=${t("unloadModel", { name: model.name })} onClick=${run}>
    ${t("unload")}
  </button>`;
}

function Switch({ models, aliases, changed }) {
  const [alias, setAlias] = useState("default");
  const [target, setTarget] = useState("");
  const chosen = target || models[0]?.name;
  const save = (event) => {
    event.preventDefault();
    changed(put("/admin/aliases", { [alias.trim()]: chosen }));
  };
  return html`<form class="stack" onSubmit=${save}>
    <h3>${t("switchAlias")}</h3>
    <label class="field">
      <span>${t("alias")}</span>
      <input required list="aliases" value=${alias} onInput=${(event) => setAlias(event.currentTarget.value)} />
      <datalist id="aliases">${Object.keys(aliases).map((name) => html`<option value=${name} />`)}</datalist>
    </label>
    <label class="field">
      <span>${t("standsFor")}</span>
      <select value=${chosen} onChange=${(event) => setTarget(event.currentTarget.value)}>
        ${models.map(({ name }) => html`<option value=${name}>${name}</option>`)}
      </select>
    </label>
    <div class="row end">
      ${
        alias in aliases &&
        html`<button type="button" class="quiet" onClick=${() => changed(put("/admin/aliases", { [alias]: null }))}>
          ${t("removeAlias")}
        </button>`
      }
      <button type="submit" class="primary">${t("switch")}</button>
    </div>
  </form>`;
}

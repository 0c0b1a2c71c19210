import { html, useState } from "../../vendor/preact.js";
import { post } from "../api.js";
import { t } from "../i18n.js";

/** What a model can be given besides source and name, as `[[models]]` in the config file has it. */
const FORMATS = ["f32", "bf16", "q8_0", "q4_0", "q4_1"];
const COUNTS = ["cache_tokens", "threads"];
const PRICES = ["prompt_per_million", "cached_per_million", "completion_per_million"];
const EMPTY = { source: "", nameOptional: "", quantize: "", speculate: "", adapters: "", currency: "", at_start: true };

/** A form for a further model. */
export function LoadModel({ changed }) {
  const [wanted, setWanted] = useState(EMPTY);
  const [busy, setBusy] = useState(false);
  const set = (name) => (event) => setWanted({ ...wanted, [name]: event.currentTarget.value });
  const load = async (event) => {
    event.preventDefault();
    setBusy(true);
    await changed(post("/admin/models", settingsOf(wanted)));
    setBusy(false);
  };
  const text = (name, placeholder) => html`<label class="field">
    <span>${t(name)}</span>
    <input value=${wanted[name]} placeholder=${placeholder} onInput=${set(name)} />
  </label>`;
  const figure = (name, step) => html`<label class="field">
    <span>${t(name)}</span>
    <input type="number" min=${step === "any" ? 0 : 1} step=${step} value=${wanted[name] ?? ""} onInput=${set(name)} />
  </label>`;
  return html`<form class="stack" onSubmit=${load}>
    <h3>${t("loadModel")}</h3>
    <label class="field">
      <span>${t("source")}</span>
      <input required value=${wanted.source} placeholder="hf:ORG/NAME, model.gguf, …" onInput=${set("source")} />
    </label>
    ${text("nameOptional")}
    <details>
      <summary>${t("moreSettings")}</summary>
      <div class="grid">
        <label class="field">
          <span>${t("quantize")}</span>
          <select value=${wanted.quantize} onChange=${set("quantize")}>
            <option value="">${t("asStored")}</option>
            ${FORMATS.map((format) => html`<option value=${format}>${format}</option>`)}
          </select>
        </label>
        ${text("speculate", "lookup, mtp, draft:MODEL, off")} ${COUNTS.map((name) => figure(name, 1))}
        ${text("adapters", "NAME=FOLDER, …")} ${text("currency", "USD")} ${PRICES.map((name) => figure(name, "any"))}
      </div>
      <label class="row">
        <input
          type="checkbox"
          checked=${wanted.at_start}
          onChange=${(event) => setWanted({ ...wanted, at_start: event.currentTarget.checked })}
        />
        <span>${t("atStart")}</span>
      </label>
    </details>
    <div class="row end"><button type="submit" class="primary" disabled=${busy}>${t(busy ? "loading" : "load")}</button></div>
  </form>`;
}

/** The body of POST /admin/models; what was left empty is left to the server. */
function settingsOf(wanted) {
  const filled = (names) => names.filter((name) => wanted[name]);
  const texts = filled(["speculate", "quantize"]).map((name) => [name, wanted[name].trim()]);
  const counts = filled(COUNTS).map((name) => [name, Number(wanted[name])]);
  const prices = filled(PRICES).map((name) => [name, Number(wanted[name])]);
  const currency = wanted.currency.trim();
  return {
    source: wanted.source.trim(),
    name: wanted.nameOptional.trim(),
    ...Object.fromEntries([...texts, ...counts]),
    ...(wanted.adapters.trim() && { adapters: wanted.adapters.split(",").map((pair) => pair.trim()) }),
    ...((prices.length || currency) && { prices: { ...Object.fromEntries(prices), ...(currency && { currency }) } }),
    ...(!wanted.at_start && { at_start: false }),
  };
}

/** What is set otherwise than it would be by itself, for people. */
export function unusualSettings({ quantize, speculate, cache_tokens, threads, adapters, at_start }) {
  const values = { quantize, cache_tokens, threads, speculate: speculate === "lookup" ? null : speculate };
  const parts = Object.entries(values).filter(([, value]) => value !== null);
  return [
    ...parts.map(([name, value]) => `${t(name)}: ${value}`),
    ...adapters.map((pair) => `:${pair.split("=")[0]}`),
    ...(at_start ? [] : [t("whenAsked")]),
  ].join(" · ");
}

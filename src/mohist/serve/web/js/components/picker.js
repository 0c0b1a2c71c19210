import { html } from "../../vendor/preact.js";
import { t } from "../i18n.js";
import { change, settings } from "../settings.js";
import { state } from "../state.js";
import { useStore } from "../store.js";

/** Which model answers. Aliases stand first: what is behind them may change while one talks. */
export function ModelPicker() {
  const models = useStore(state, (value) => value.models) ?? [];
  const chosen = useStore(settings, (value) => value.model);
  const aliases = models.filter((one) => one.alias_of);
  const others = models.filter((one) => !one.alias_of);
  const option = ({ id, alias_of: target }) =>
    html`<option key=${id} value=${id}>${target ? `${id} → ${target}` : id}</option>`;
  return html`<label class="picker">
    <span class="visually-hidden">${t("model")}</span>
    <select id="model" value=${chosen || models[0]?.id} disabled=${!models.length} onChange=${(event) => change({ model: event.currentTarget.value })}>
      ${!models.length && html`<option>${t("noModel")}</option>`}
      ${aliases.length > 0 && html`<optgroup label=${t("aliases")}>${aliases.map(option)}</optgroup>`}
      ${others.length > 0 && html`<optgroup label=${t("models")}>${others.map(option)}</optgroup>`}
    </select>
  </label>`;
}

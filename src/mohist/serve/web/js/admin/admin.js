// The operator's view: what the server does now, its models, keys and usage.

import { html } from "../../vendor/preact.js";
import { get } from "../api.js";
import { explained, t } from "../i18n.js";
import { openDialog } from "../state.js";
import { useStore } from "../store.js";
import { apiKey } from "../settings.js";
import { Icon } from "../components/icon.js";
import { Keys } from "./keys.js";
import { useLoad } from "./load.js";
import { Models } from "./models.js";
import { ThroughputChart } from "./throughput.js";
import { Usage } from "./usage.js";

export function Admin() {
  const { key } = useStore(apiKey, (value) => value);
  // Another key may see other things: everything is asked for again.
  return html`<div class="scroll" key=${key}><div class="admin"><${Sections} key=${key} /></div></div>`;
}

function Sections() {
  const models = useLoad(() => get("/admin/models"), 5000);
  if (models.error && !models.data) return html`<${Refused} error=${models.error} />`;
  if (!models.data) return null;
  return html`
    <${ThroughputChart} />
    <${Models} ...${models} />
    <${Keys} />
    <${Usage} />
  `;
}

function Refused({ error }) {
  const forKey = error.status === 401 || error.status === 403;
  return html`<div class="failure">
    <${Icon} name="warning" />
    <div>
      <p><strong>${t(forKey ? "adminOnly" : "serverAway")}</strong></p>
      <p>${explained(error)}</p>
      ${
        forKey &&
        html`<p><button type="button" class="quiet" onClick=${() => openDialog("settings")}>${t("enterKey")}</button></p>`
      }
    </div>
  </div>`;
}

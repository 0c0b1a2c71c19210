import { html } from "../../vendor/preact.js";
import { locale, t } from "../i18n.js";
import { Table } from "./table.js";

/** Where models and aliases are not what the server's config says; nothing where they are. */
export function Changes({ changes }) {
  if (!changes.length) return null;
  const columns = [
    [t("name"), (change) => html`<strong>${change.name}</strong><br /><small>${t(`changed_${change.kind}`)}</small>`],
    [t("change"), (change) => t(kindOf(change), { from: change.configured, to: change.changed })],
    [t("changedAt"), (change) => new Date(change.at_ms).toLocaleString(locale())],
    [t("inEffect"), (change) => (change.problem ? html`<span class="reason">${change.problem}</span>` : t("yes"))],
  ];
  return html`<details class="changes" open=${changes.some((change) => change.problem)}>
    <summary>${t("changes", { n: changes.length })}</summary>
    <p class="hint">${t("changesHint")} <code>mohist serve --forget-changes</code></p>
    <${Table}
      label=${t("changesLabel")}
      columns=${columns}
      rows=${changes}
      name=${(change) => `${change.kind} ${change.name}`}
    />
  </details>`;
}

/** The words for what a change does. */
function kindOf({ kind, configured, changed }) {
  if (changed === null) return "takenAway";
  if (configured === null) return kind === "alias" ? "aliasAdded" : "modelAdded";
  return kind === "alias" ? "aliasSwitched" : "modelReplaced";
}

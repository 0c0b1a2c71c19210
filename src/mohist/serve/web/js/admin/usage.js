import { html, useEffect, useState } from "../../vendor/preact.js";
import { get } from "../api.js";
import { locale, money, number, t } from "../i18n.js";
import { useLoad } from "./load.js";
import { Table } from "./table.js";

const DAY_MS = 86_400_000;
const GROUPS = ["key", "model", "day"];
const DAYS = [1, 7, 30];

/** What was used, by whom or by which model or when, and what it cost. */
export function Usage() {
  const [by, setBy] = useState("model");
  const [days, setDays] = useState(7);
  const since = (Math.floor(Date.now() / DAY_MS) - days + 1) * DAY_MS;
  return html`<section aria-labelledby="usage">
    <h2 id="usage">${t("usage")}</h2>
    <div class="row wrap">
      <${Choice} label=${t("by")} value=${by} options=${GROUPS.map((name) => [name, t(`by_${name}`)])} choose=${setBy} />
      <${Choice}
        label=${t("period")}
        value=${String(days)}
        options=${DAYS.map((n) => [String(n), t("lastDays", { n })])}
        choose=${(value) => setDays(Number(value))}
      />
    </div>
    <${Sums} key=${`${by} ${since}`} by=${by} since=${since} />
  </section>`;
}

function Choice({ label, value, options, choose }) {
  return html`<label class="row">
    <span class="hint">${label}</span>
    <select value=${value} onChange=${(event) => choose(event.currentTarget.value)}>
      ${options.map(([name, text]) => html`<option value=${name}>${text}</option>`)}
    </select>
  </label>`;
}

function Sums({ by, since }) {
  const { data, reload } = useLoad(() => get(`/admin/usage?by=${by}&since_ms=${since}`));
  useEffect(() => {
    addEventListener("focus", reload);
    return () => removeEventListener("focus", reload);
  }, []);
  if (!data?.length) return data && html`<p class="hint">${t("noUsage")}</p>`;
  const columns = [
    [t(`by_${by}`), (sum) => nameOf(sum, by)],
    [t("answers"), (sum) => number(sum.choices), true],
    [t("promptTokens"), (sum) => number(sum.prompt_tokens), true],
    [t("cachedTokens"), (sum) => number(sum.cached_tokens), true],
    [t("answerTokens"), (sum) => number(sum.completion_tokens), true],
    [t("thinkingTokens"), (sum) => number(sum.reasoning_tokens), true],
    [t("cost"), (sum) => money(sum.cost_nano / 1e9, sum.currency), true],
  ];
  const name = (sum) => `${nameOf(sum, by)} ${sum.currency}`;
  return html`<${Table} label=${t("usage")} columns=${columns} rows=${data} name=${name} />`;
}

function nameOf(sum, by) {
  if (by === "model") return sum.model;
  if (by === "day") return new Date(sum.day_ms).toLocaleDateString(locale(), { timeZone: "UTC" });
  return sum.key_name || sum.key_id || t("withoutKey");
}

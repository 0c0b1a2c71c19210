import { html } from "../../vendor/preact.js";
import { get } from "../api.js";
import { number, t } from "../i18n.js";
import { useLoad } from "./load.js";

const WIDTH = 720;
const HEIGHT = 160;
const WINDOW_MS = 300_000;
const LOOK_EVERY_MS = 2000;

/** Tokens a second over the last five minutes, one line a model, and what is going on now. */
export function ThroughputChart() {
  const { data } = useLoad(() => get("/admin/throughput"), LOOK_EVERY_MS);
  const lines = byModel(data ?? []);
  const latest = [...lines.values()].map((moments) => moments.at(-1));
  const sum = (name) => latest.reduce((total, moment) => total + moment[name], 0);
  const speed = Math.round(sum("generated_per_s"));
  return html`<section aria-labelledby="now">
    <h2 id="now">${t("now")}</h2>
    <dl class="tiles">
      <${Tile} name=${t("generatedPerS")} value=${number(speed)} />
      <${Tile} name=${t("computedPerS")} value=${number(Math.round(sum("computed_per_s")))} />
      <${Tile} name=${t("runningRequests")} value=${number(sum("running"))} />
      <${Tile} name=${t("waitingRequests")} value=${number(sum("waiting"))} />
    </dl>
    <${Chart} lines=${lines} label=${t("throughputChart", { n: speed })} />
  </section>`;
}

function Tile({ name, value }) {
  return html`<div><dt>${name}</dt><dd>${value}</dd></div>`;
}

function Chart({ lines, label }) {
  const all = [...lines.values()].flat();
  const end = Math.max(...all.map((moment) => moment.at_ms), 0);
  const top = roundUp(Math.max(...all.map((moment) => moment.generated_per_s), 10));
  const point = ({ at_ms, generated_per_s }) => {
    const x = WIDTH * (1 - (end - at_ms) / WINDOW_MS);
    return `${x.toFixed(1)},${(HEIGHT * (1 - generated_per_s / top)).toFixed(1)}`;
  };
  return html`<figure class="chart">
    <svg viewBox="0 -6 ${WIDTH + 60} ${HEIGHT + 12}" role="img" aria-label=${label}>
      ${[0, 0.5, 1].map(
        (share) => html`<g class="grid">
          <line x1="0" x2=${WIDTH} y1=${HEIGHT * (1 - share)} y2=${HEIGHT * (1 - share)} />
          <text x=${WIDTH + 8} y=${HEIGHT * (1 - share) + 4}>${number(top * share)}</text>
        </g>`,
      )}
      ${[...lines.values()].map((moments, index) => html`<polyline class="line-${index % 4}" points=${moments.map(point).join(" ")} />`)}
    </svg>
    <figcaption>
      ${[...lines.keys()].map((model, index) => html`<span class="key-${index % 4}">${model}</span>`)}
      <span>${t("lastMinutes", { n: WINDOW_MS / 60_000 })}</span>
    </figcaption>
  </figure>`;
}

function byModel(moments) {
  const from = Math.max(...moments.map((moment) => moment.at_ms), 0) - WINDOW_MS;
  const lines = new Map();
  for (const moment of moments) {
    if (moment.at_ms < from) continue;
    lines.set(moment.model, [...(lines.get(moment.model) ?? []), moment]);
  }
  return lines;
}

/** The next of 10, 20, 50, 100, 200, ... */
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= value);
}

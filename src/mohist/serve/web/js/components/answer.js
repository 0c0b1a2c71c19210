import { html } from "../../vendor/preact.js";
import { regenerate } from "../chat.js";
import { explained, money, number, seconds, t } from "../i18n.js";
import { openDialog } from "../state.js";
import { Icon } from "./icon.js";
import { Markdown } from "./markdown.js";
import { Thinking } from "./thinking.js";

/** A model's answer: its thinking, its text, what went wrong, and what it cost. `running`: it is coming in now. */
export function Answer({ message, running, now }) {
  const { text, reasoning, toolCalls, status } = message;
  const live = status === "writing" && running;
  return html`
    ${reasoning && html`<${Thinking} message=${message} />`}
    ${text && html`<${Markdown} source=${text} live=${live} now=${now} />`}
    ${toolCalls?.map((call) => html`<${ToolCall} call=${call} />`)}
    ${live && !text && !reasoning && html`<p class="waiting" aria-label=${t("waiting")}><i></i><i></i><i></i></p>`}
    ${status === "failed" && html`<${Failure} message=${message} />`}
    ${!live && status !== "failed" && html`<${Ending} message=${message} />`}
    ${!live && message.usage && html`<${Figures} message=${message} />`}
  `;
}

function ToolCall({ call }) {
  return html`<figure class="code">
    <figcaption><span>${t("toolCall", { name: call.name })}</span></figcaption>
    <pre tabindex="0"><code>${call.arguments}</code></pre>
  </figure>`;
}

/** Why an answer ended, where that is not because it was complete. */
function Ending({ message }) {
  if (message.status === "stopped") return html`<p class="ending">${t("stopped")}</p>`;
  if (message.status === "writing") return html`<p class="ending">${t("interrupted")}</p>`;
  if (message.finish === "length") return html`<p class="ending">${t("cutAtLimit")}</p>`;
  return null;
}

function Failure({ message }) {
  const { status, retryAfter } = message.error;
  const why = explained(message.error);
  const known = [0, 400, 401, 403, 404, 413, 422, 429, 500, 503].includes(status) ? status : 500;
  return html`<div class="failure">
    <${Icon} name="warning" />
    <div>
      <p><strong>${t(`error_${known}`)}</strong></p>
      ${why && html`<p>${why}</p>`}
      ${retryAfter && html`<p>${t("retryAfter", { time: seconds(retryAfter) })}</p>`}
      <p class="row">
        <button type="button" class="quiet" onClick=${() => regenerate(message.id)}>${t("tryAgain")}</button>
        ${
          (status === 401 || status === 403) &&
          html`<button type="button" class="primary" onClick=${() => openDialog("settings")}>${t("enterKey")}</button>`
        }
      </p>
    </div>
  </div>`;
}

function Figures({ message }) {
  const { usage, cost, first_s = 0, total_s = 0, model, seed } = message;
  const thought = usage.completion_tokens_details?.reasoning_tokens ?? 0;
  const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
  const speed = total_s > first_s && usage.completion_tokens > 1 ? (usage.completion_tokens - 1) / (total_s - first_s) : 0;
  const all = [
    [t("model"), model],
    [t("promptTokens"), `${number(usage.prompt_tokens)}${cached ? ` (${t("ofThemCached", { n: cached })})` : ""}`],
    [t("answerTokens"), `${number(usage.completion_tokens)}${thought ? ` (${t("ofThemThinking", { n: thought })})` : ""}`],
    [t("firstToken"), seconds(first_s, 2)],
    [t("wholeAnswer"), seconds(total_s, 2)],
    [t("seed"), String(seed)],
  ];
  return html`<details class="figures">
    <summary>
      <span>${t("tokens", { n: usage.completion_tokens })}</span>
      ${speed > 0 && html`<span>${t("tokensPerSecond", { n: Number(speed.toPrecision(3)) })}</span>`}
      ${cost && html`<span>${money(cost.value, cost.currency)}</span>`}
    </summary>
    <dl>${all.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>
  </details>`;
}

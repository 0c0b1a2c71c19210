import { html, useState } from "../../vendor/preact.js";
import { ApiError, replay } from "../api.js";
import { copyText } from "../clipboard.js";
import { download } from "../export.js";
import { explained, t } from "../i18n.js";
import { announce } from "../state.js";
import { Dialog } from "./dialog.js";
import { Icon } from "./icon.js";

/** The receipt of an answer, and the button that has the server give the answer again and compare. */
export function ReceiptDialog({ message }) {
  const { receipt } = message;
  const source = JSON.stringify(receipt, null, 2);
  return html`<${Dialog} title=${t("receipt")} wide>
    <p>${t("receiptExplained")}</p>
    <${Replay} receipt=${receipt} />
    <details class="receipt-source">
      <summary>${t("receiptContents")}</summary>
      <pre tabindex="0">${source}</pre>
    </details>
    <div class="row wrap">
      <button type="button" class="quiet" onClick=${() => copyText(source)}>${t("copy")}</button>
      <button
        type="button"
        class="quiet"
        onClick=${() => download(`receipt-${message.id.slice(0, 8)}.json`, source, "application/json")}
      >
        ${t("download")}
      </button>
    </div>
    <p class="hint">${t("replayElsewhere")} <code>mohist replay receipt.json</code></p>
  <//>`;
}

function Replay({ receipt }) {
  const [result, setResult] = useState(null); // null | {busy} | {error} | what the server says
  const run = async () => {
    setResult({ busy: true });
    try {
      const found = await replay(receipt);
      setResult(found);
      announce(t(found.identical ? "identical" : "notIdentical"));
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      setResult({ error });
    }
  };
  return html`<div class="replay">
    <button type="button" class="primary" disabled=${result?.busy} onClick=${run}>
      ${t(result?.busy ? "replaying" : "replay")}
    </button>
    ${result && !result.busy && html`<${Verdict} result=${result} />`}
  </div>`;
}

function Verdict({ result }) {
  if (result.error) return html`<p class="verdict bad"><${Icon} name="warning" />${explained(result.error)}</p>`;
  if (result.identical) return html`<p class="verdict good"><${Icon} name="check" />${t("identical")}</p>`;
  const { doubt, first_difference: first } = result;
  const { index, expected, found } = first;
  return html`<div class="verdict bad">
    <${Icon} name="warning" />
    <div>
      <p>${t("different", { n: index + 1 })}</p>
      <p>${t("expectedToken", { token: spelled(expected) })}</p>
      <p>${t("foundToken", { token: spelled(found) })}</p>
      ${doubt && html`<p>${t("mayBeWhy", { why: doubt })}</p>`}
    </div>
  </div>`;
}

/** A token's number and logprob; a dash where the answer had ended. */
const spelled = (pair) => (pair ? `${pair[0]} (${pair[1]})` : "–");

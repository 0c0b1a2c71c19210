import { html, useEffect, useState } from "../../vendor/preact.js";
import { seconds, t } from "../i18n.js";
import { Icon } from "./icon.js";
import { Markdown } from "./markdown.js";

/** What the model thought before it answered: folded, with the time it took. */
export function Thinking({ message }) {
  const { reasoning, thinking_s } = message;
  const [open, setOpen] = useState(false);
  const live = message.status === "writing" && thinking_s === undefined;
  const label = live
    ? html`${t("thinkingNow")} <${Elapsed} />`
    : t("thoughtFor", { time: seconds(thinking_s ?? 0) });
  return html`<details class=${`thinking ${live ? "live" : ""}`} open=${open} onToggle=${(event) => setOpen(event.currentTarget.open)}>
    <summary><${Icon} name="think" /><span>${label}</span><${Icon} name="right" /></summary>
    ${open && html`<${Markdown} source=${reasoning} live=${live} now />`}
  </details>`;
}

function Elapsed() {
  const [passed, setPassed] = useState(0);
  useEffect(() => {
    const start = performance.now();
    const timer = setInterval(() => setPassed((performance.now() - start) / 1000), 1000);
    return () => clearInterval(timer);
  }, []);
  return html`<span class="elapsed">${seconds(Math.floor(passed))}</span>`;
}

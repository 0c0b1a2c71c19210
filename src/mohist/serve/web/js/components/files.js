import { html } from "../../vendor/preact.js";
import { number, t } from "../i18n.js";
import { openDialog } from "../state.js";
import { Icon, IconButton } from "./icon.js";

/** A file that belongs to a question; pressing it shows its text. `remove` takes it away again. */
export function FileChip({ file, remove }) {
  const size = file.pages ? t("pages", { n: file.pages }) : t("characters", { n: file.text.length });
  return html`<li class="chip">
    <button type="button" onClick=${() => openDialog("file", { file })}>
      <${Icon} name="file" /><span class="name">${file.name}</span><span class="size">${size}</span>
    </button>
    ${remove && html`<${IconButton} icon="close" label=${t("removeFile", { name: file.name })} onClick=${remove} />`}
  </li>`;
}

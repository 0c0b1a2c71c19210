import { html, useEffect, useRef } from "../../vendor/preact.js";
import { t } from "../i18n.js";
import { closeDialog } from "../state.js";
import { IconButton } from "./icon.js";

/** A modal dialog. The browser keeps the focus inside, closes it on Escape and gives the focus back. */
export function Dialog({ title, wide = false, children }) {
  const box = useRef(null);
  useEffect(() => {
    const opener = document.activeElement;
    box.current.showModal();
    return () => opener?.isConnected && opener.focus();
  }, []);
  // The browser tells of a closing afterwards: by then another dialog may be in this one's place, and stays.
  const closed = () => box.current && closeDialog();
  const closeOutside = (event) => event.target === box.current && closeDialog();
  return html`<dialog
    ref=${box}
    class=${wide ? "wide" : ""}
    aria-labelledby="dialog-title"
    onClose=${closed}
    onMouseDown=${closeOutside}
  >
    <div class="dialog">
      <header>
        <h2 id="dialog-title">${title}</h2>
        <${IconButton} icon="close" label=${t("close")} onClick=${closeDialog} />
      </header>
      ${children}
    </div>
  </dialog>`;
}

import { html, useEffect, useState } from "../../vendor/preact.js";
import { t } from "../i18n.js";
import { loadModels } from "../models.js";
import { openDialog, state } from "../state.js";
import { useStore } from "../store.js";
import { Conversation } from "./conversation.js";
import { Dialogs } from "./dialogs.js";
import { Icon, IconButton } from "./icon.js";
import { ModelPicker } from "./picker.js";
import { Sidebar } from "./sidebar.js";

/** The whole page. */
export function App() {
  const view = useStore(state, (value) => value.route.view);
  const title = useStore(state, (value) => value.conversation?.title);
  const sidebar = useStore(state, (value) => value.sidebar);
  return html`
    <a class="skip" href="#message" onClick=${skip}>${t("skip")}</a>
    <${Sidebar} />
    ${sidebar && html`<div class="veil" onClick=${() => state.set({ sidebar: false })}></div>`}
    <main>
      <header class="top">
        <${IconButton}
          class="phone"
          icon="menu"
          label=${t("openMenu")}
          aria-expanded=${sidebar}
          aria-controls="sidebar"
          onClick=${() => state.set({ sidebar: true })}
        />
        <h1 class=${view === "chat" ? "visually-hidden" : ""}>${view === "admin" ? t("admin") : (title ?? t("newConversation"))}</h1>
        ${view === "chat" && html`<${ModelPicker} />`}
      </header>
      <${Offline} />
      ${view === "admin" ? html`<${AdminLater} />` : html`<${Conversation} />`}
    </main>
    <${Dialogs} />
    <${Notice} />
    <div class="visually-hidden" role="status" aria-live="polite"><${Announcement} /></div>
  `;
}

function skip(event) {
  event.preventDefault();
  document.getElementById("message")?.focus();
}

/** The operator's view, loaded when somebody opens it. */
function AdminLater() {
  const [View, setView] = useState(null);
  useEffect(() => {
    import("../admin/admin.js").then((module) => setView(() => module.Admin));
  }, []);
  return View && html`<${View} />`;
}

function Offline() {
  const error = useStore(state, (value) => value.offline);
  if (!error) return null;
  const forKey = error.status === 401 || error.status === 403;
  return html`<div class="banner" role="alert">
    <${Icon} name="warning" />
    <span>${t(forKey ? "keyNeeded" : "serverAway")}</span>
    ${
      forKey
        ? html`<button type="button" class="quiet" onClick=${() => openDialog("settings")}>${t("enterKey")}</button>`
        : html`<button type="button" class="quiet" onClick=${loadModels}>${t("tryAgain")}</button>`
    }
  </div>`;
}

function Notice() {
  const notice = useStore(state, (value) => value.notice);
  if (!notice) return null;
  const act = () => {
    state.set({ notice: null });
    notice.action.run();
  };
  return html`<div class=${`notice ${notice.tone}`} role=${notice.tone === "bad" ? "alert" : "status"}>
    <span>${notice.text}</span>
    ${notice.action && html`<button type="button" onClick=${act}>${notice.action.label}</button>`}
  </div>`;
}

function Announcement() {
  return useStore(state, (value) => value.announcement);
}

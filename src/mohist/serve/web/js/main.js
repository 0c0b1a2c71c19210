// Where the page begins.

import { html, render } from "../vendor/preact.js";
import { App } from "./components/app.js";
import { loadConversations, open } from "./conversations.js";
import { openDraft } from "./draft.js";
import { language, locale, t } from "./i18n.js";
import { loadModels } from "./models.js";
import { follow } from "./router.js";
import { settings } from "./settings.js";
import { installShortcuts } from "./shortcuts.js";
import { state } from "./state.js";

function draw() {
  document.documentElement.lang = locale();
  const { theme } = settings.get();
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  // Words are looked up while components are drawn: another language draws all of them anew.
  render(html`<${App} key=${language()} />`, document.getElementById("app"));
}

function showRoute({ route, conversation }) {
  document.title = conversation ? `${conversation.title} · Mohist` : "Mohist";
  if (route === shown) return;
  shown = route;
  if (route.view !== "chat") return;
  open(route.id);
  openDraft(route.id);
}

let shown = null;

await loadConversations();
follow();
state.watch(showRoute);
showRoute(state.get());
settings.watch(draw);
draw();
installShortcuts();
loadModels();
document.documentElement.dataset.ready = t("ready");

import { html, useEffect, useRef, useState } from "../../vendor/preact.js";
import { search } from "../database.js";
import { dayGroup, language, t } from "../i18n.js";
import { go } from "../router.js";
import { change, settings } from "../settings.js";
import { openDialog, state } from "../state.js";
import { useStore } from "../store.js";
import { Icon, IconButton } from "./icon.js";
import { Mark } from "./mark.js";

const SEARCH_AFTER_MS = 120;
const THEMES = { auto: "light", light: "dark", dark: "auto" };
const THEME_ICONS = { auto: "auto", light: "sun", dark: "moon" };

/** All conversations, the search through them, and the ways to everything else. */
export function Sidebar() {
  const open = useStore(state, (value) => value.sidebar);
  const conversations = useStore(state, (value) => value.conversations);
  const current = useStore(state, (value) => value.route);
  const [query, setQuery] = useState("");
  const found = useSearch(query, conversations);
  const shown = (conversations ?? []).filter(({ id }) => !found || found.has(id));

  return html`<aside class=${`sidebar ${open ? "open" : ""}`} id="sidebar">
    <header>
      <a class="brand" href="#/"><${Mark} /><span>Mohist</span></a>
      <${IconButton} class="phone" icon="close" label=${t("closeMenu")} onClick=${() => state.set({ sidebar: false })} />
    </header>
    <button type="button" class="new" onClick=${() => (go("#/"), state.set({ sidebar: false }))}>
      <${Icon} name="plus" /><span>${t("newConversation")}</span>
    </button>
    <label class="search">
      <${Icon} name="search" />
      <input
        id="search"
        type="search"
        value=${query}
        placeholder=${t("search")}
        aria-label=${t("searchConversations")}
        onInput=${(event) => setQuery(event.currentTarget.value)}
      />
    </label>
    <nav aria-label=${t("conversations")}>
      ${grouped(shown).map(
        ([name, members]) => html`
          <h2>${t(name)}</h2>
          <ul>
            ${members.map((one) => html`<${Item} key=${one.id} conversation=${one} current=${current.id === one.id} />`)}
          </ul>
        `,
      )}
      ${conversations && !shown.length && html`<p class="none">${t(query ? "nothingFound" : "noConversations")}</p>`}
    </nav>
    <${Tools} />
  </aside>`;
}

function Item({ conversation, current }) {
  const running = useStore(state, (value) => value.running.has(conversation.id));
  return html`<li class=${current ? "current" : ""}>
    <a href=${`#/c/${conversation.id}`} aria-current=${current ? "page" : null} title=${conversation.title}>
      ${running && html`<i class="pulse" role="img" aria-label=${t("beingAnswered")}></i>`}
      <span dir="auto">${conversation.title}</span>
    </a>
    <${IconButton}
      icon="more"
      label=${t("moreAbout", { title: conversation.title })}
      onClick=${() => openDialog("conversation", { id: conversation.id })}
    />
  </li>`;
}

/** The conversations of today, yesterday, ... in the order of the list. */
function grouped(conversations) {
  const groups = new Map();
  for (const one of conversations) {
    const name = dayGroup(one.updated);
    groups.set(name, [...(groups.get(name) ?? []), one]);
  }
  return [...groups];
}

/** The ids that a search finds; null without one. */
function useSearch(query, conversations) {
  const [found, setFound] = useState(null);
  const latest = useRef("");
  useEffect(() => {
    latest.current = query;
    if (!query.trim()) return void setFound(null);
    const timer = setTimeout(async () => {
      // Where the browser keeps nothing, there are only the titles to look through.
      const ids = await search(query).catch(() => byTitle(query, conversations));
      if (latest.current === query) setFound(ids);
    }, SEARCH_AFTER_MS);
    return () => clearTimeout(timer);
  }, [query, conversations]);
  return found;
}

function byTitle(query, conversations) {
  const wanted = query.trim().toLocaleLowerCase();
  return new Set(conversations.filter(({ title }) => title.toLocaleLowerCase().includes(wanted)).map(({ id }) => id));
}

function Tools() {
  const { theme } = useStore(settings, (value) => value);
  const other = language() === "zh" ? "en" : "zh";
  return html`<footer class="tools">
    <a class="icon-button" href="#/admin" aria-label=${t("admin")} title=${t("admin")}><${Icon} name="gauge" /></a>
    <${IconButton} icon="keyboard" label=${t("shortcuts")} onClick=${() => openDialog("shortcuts")} />
    <${IconButton} icon=${THEME_ICONS[theme]} label=${t(`theme_${theme}`)} onClick=${() => change({ theme: THEMES[theme] })} />
    <button type="button" class="icon-button" lang=${other} onClick=${() => change({ language: other })}>
      ${other === "zh" ? "中文" : "EN"}
    </button>
    <${IconButton} icon="settings" label=${t("settings")} onClick=${() => openDialog("settings")} />
  </footer>`;
}

// What a model writes, as elements. Two walls keep its text from doing anything but being read: HTML in it is
// shown as the text it is, and what marked makes of the rest goes through DOMPurify with a short list of
// elements. Remote pictures become links, so that an answer cannot call anybody by being looked at.

import { Marked } from "../vendor/marked.js";
import "../vendor/purify.js";
import { highlighted, loadHighlighter } from "./highlight.js";
import { typeset, loadMath, mathExtensions } from "./math.js";
import { t } from "./i18n.js";

const LONGEST_HIGHLIGHTED = 50_000; // characters of code; more would hold up the page
const LONGEST_HIGHLIGHTED_LIVE = 4_000; // while it is being written

const PLAIN_ATTRIBUTES = ["align", "class", "data-language", "data-math", "start"]; // none of them an address

const ALLOWED = {
  ALLOWED_TAGS: (
    "a blockquote br code del em figure h3 h4 h5 h6 hr li ol p pre s span strong table tbody td th thead tr ul"
  ).split(" "),
  ALLOWED_ATTR: [...PLAIN_ATTRIBUTES, "href"],
  ADD_URI_SAFE_ATTR: PLAIN_ATTRIBUTES,
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

const escape = (text) =>
  text.replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);

const renderer = {
  html: ({ text, block }) => (block ? `<p>${escape(text.trim())}</p>` : brOr(text)),
  image: ({ href, text, title }) => link(href, escape(text || title || href)),
  link({ href, tokens }) {
    return link(href, this.parser.parseInline(tokens));
  },
  heading({ tokens, depth }) {
    // The page's own headings are h1 and h2.
    const level = Math.min(depth + 2, 6);
    return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>`;
  },
  checkbox: ({ checked }) => `<span class="task">${checked ? "☑" : "☐"}</span> `,
  code({ text, lang }) {
    const language = (lang ?? "").match(/^[\w+#.-]*/)[0];
    const longest = this.options.live ? LONGEST_HIGHLIGHTED_LIVE : LONGEST_HIGHLIGHTED;
    const inside = (text.length <= longest && highlighted(text, language)) || escape(text);
    return `<figure class="code" data-language="${escape(language)}"><pre><code>${inside}</code></pre></figure>`;
  },
};

const brOr = (text) => (/^<br\s*\/?>$/i.test(text) ? "<br>" : escape(text));

function link(href, inside) {
  return ALLOWED.ALLOWED_URI_REGEXP.test(href) ? `<a href="${escape(href)}">${inside}</a>` : inside;
}

const marked = new Marked({ gfm: true, breaks: true, renderer, extensions: mathExtensions });

/** Keeps the elements under `root` equal to a Markdown text that grows; only blocks that changed are made anew. */
export class MarkdownView {
  constructor(root) {
    this.root = root;
    this.blocks = []; // {raw, live, element}
    this.settled = ""; // the text of the blocks that more text cannot change
    this.numSettled = 0;
  }

  /** Show `source`; `live` says that more is coming. */
  update(source, live) {
    if (!live || !source.startsWith(this.settled)) this.unsettle();
    const tokens = marked.lexer(source.slice(this.settled.length));
    this.show(tokens.filter((token) => token.type !== "space" && token.type !== "def"), live);
    if (live) this.settle(tokens);
    loadWhatIsMissing(source, () => this.redraw(source, live));
  }

  unsettle() {
    this.settled = "";
    this.numSettled = 0;
  }

  /** All blocks before the last one are finished; the last one may still grow. */
  settle(tokens) {
    const last = tokens.findLastIndex((token) => token.type !== "space");
    for (const token of tokens.slice(0, Math.max(last, 0))) {
      this.settled += token.raw;
      if (token.type !== "space" && token.type !== "def") this.numSettled += 1;
    }
  }

  show(tokens, live) {
    const wanted = tokens.map((token, index) => ({ token, live: live && index === tokens.length - 1 }));
    let at = this.numSettled;
    for (const { token, live: growing } of wanted) {
      const old = this.blocks[at];
      if (old?.raw !== token.raw || old.live !== growing) this.replace(at, token, growing);
      at += 1;
    }
    for (const { element } of this.blocks.splice(at)) element.remove();
  }

  replace(at, token, live) {
    const element = document.createElement("div");
    element.className = "block";
    element.append(elements(token, live));
    if (this.blocks[at]) this.blocks[at].element.replaceWith(element);
    else this.root.append(element);
    this.blocks[at] = { raw: token.raw, live, element };
  }

  redraw(source, live) {
    if (!this.root.isConnected) return;
    for (const block of this.blocks) block.raw = null;
    this.unsettle();
    this.update(source, live);
  }
}

function elements(token, live) {
  const html = marked.parser([token], { ...marked.defaults, live });
  const fragment = globalThis.DOMPurify.sanitize(html, ALLOWED);
  fragment.querySelectorAll("a").forEach(openOutside);
  fragment.querySelectorAll("figure").forEach(withCopyButton);
  fragment.querySelectorAll("table").forEach(scrollable);
  fragment.querySelectorAll("[data-math]").forEach(typeset);
  return fragment;
}

function openOutside(anchor) {
  anchor.target = "_blank";
  anchor.rel = "noopener noreferrer nofollow";
}

function withCopyButton(figure) {
  const caption = document.createElement("figcaption");
  const name = document.createElement("span");
  name.textContent = figure.dataset.language || t("code");
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.dataset.copyCode = "";
  button.textContent = t("copy");
  caption.append(name, button);
  figure.prepend(caption);
  figure.querySelector("pre")?.setAttribute("tabindex", "0");
}

function scrollable(table) {
  const frame = document.createElement("div");
  frame.className = "table";
  frame.tabIndex = 0;
  frame.setAttribute("role", "region");
  frame.setAttribute("aria-label", t("table"));
  table.replaceWith(frame);
  frame.append(table);
}

/** KaTeX and highlight.js come when they are first needed; then `redraw` is called. */
function loadWhatIsMissing(source, redraw) {
  const hasCode = /^ {0,3}(```|~~~)\w/m.test(source);
  const hasMath = /\$|\\[[(]|\\begin\{/.test(source);
  if (hasCode) loadHighlighter()?.then(redraw);
  if (hasMath) loadMath()?.then(redraw);
}

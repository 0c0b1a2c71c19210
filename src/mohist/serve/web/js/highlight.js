// Colours for code, by highlight.js, which is loaded when the first code appears.

let highlighter = null;
let loading = null;

/** Load the library; null if it is here already. */
export function loadHighlighter() {
  if (highlighter) return null;
  loading ??= import("../vendor/highlight.js").then((module) => {
    highlighter = module.default;
  });
  return loading;
}

/** Code as HTML with `hljs-...` spans, its text escaped; "" where the language or the library is unknown. */
export function highlighted(code, language) {
  if (!language || !highlighter?.getLanguage(language)) return "";
  return highlighter.highlight(code, { language, ignoreIllegals: true }).value;
}

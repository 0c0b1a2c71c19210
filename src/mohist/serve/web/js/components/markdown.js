import { html, useEffect, useLayoutEffect, useRef } from "../../vendor/preact.js";
import { MarkdownView } from "../markdown.js";

/** A Markdown text; `live` while more of it is coming. */
export function Markdown({ source, live }) {
  const root = useRef(null);
  const view = useRef(null);
  useLayoutEffect(() => {
    view.current ??= new MarkdownView(root.current);
    view.current.update(source, live);
  }, [source, live]);
  useEffect(() => () => void (view.current = null), []);
  return html`<div class="prose" ref=${root}></div>`;
}

import { html, useEffect, useLayoutEffect, useRef, useState } from "../../vendor/preact.js";
import { MarkdownView } from "../markdown.js";

const NEAR = "1500px"; // how far from the screen a text is set

/**
 * A Markdown text; `live` while more of it is coming. What is far from the screen stays plain text until one comes
 * near it, so that a long conversation opens at once; `now` does not wait.
 */
export function Markdown({ source, live, now }) {
  const root = useRef(null);
  const view = useRef(null);
  const [near, setNear] = useState(live || now);
  useEffect(() => {
    if (near) return undefined;
    const watch = new IntersectionObserver((seen) => seen.at(-1).isIntersecting && setNear(true), { rootMargin: NEAR });
    watch.observe(root.current);
    return () => watch.disconnect();
  }, [near]);
  useLayoutEffect(() => {
    if (!near) return;
    view.current ??= new MarkdownView(root.current);
    view.current.update(source, live);
  }, [source, live, near]);
  return near
    ? html`<div key="set" class="prose" ref=${root}></div>`
    : html`<div key="plain" class="prose plain" ref=${root}>${source}</div>`;
}

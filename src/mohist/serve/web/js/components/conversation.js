import { html, useEffect, useLayoutEffect, useRef, useState } from "../../vendor/preact.js";
import { t } from "../i18n.js";
import { state } from "../state.js";
import { useStore } from "../store.js";
import { branches, path } from "../tree.js";
import { Composer } from "./composer.js";
import { IconButton } from "./icon.js";
import { Mark } from "./mark.js";
import { Message } from "./message.js";

const AT_END_PX = 12;
const SET_AT_ONCE = 4; // messages at the end, where one begins to read

/** The open conversation, or the beginning of a new one. */
export function Conversation() {
  const conversation = useStore(state, (value) => value.conversation);
  const messages = useStore(state, (value) => value.messages);
  const running = useStore(state, (value) => value.running.has(value.conversation?.id));
  const shown = conversation ? path(messages, conversation.head) : [];
  const places = branches(messages, shown);
  const { frame, list, away, toEnd } = useFollowing(conversation?.id, shown.at(-1)?.parent);

  return html`
    <div class="scroll" ref=${frame}>
      ${
        shown.length
          ? html`<ol class="messages" ref=${list} aria-label=${t("conversation")}>
              ${shown.map((message, index) => {
                const all = places.get(message.id);
                return html`<${Message}
                  key=${message.id}
                  message=${message}
                  place=${all.indexOf(message.id) + 1}
                  count=${all.length}
                  running=${running && index === shown.length - 1}
                  now=${index >= shown.length - SET_AT_ONCE}
                />`;
              })}
            </ol>`
          : html`<${Welcome} />`
      }
    </div>
    <div class="foot">
      ${away && html`<${IconButton} class="to-end" icon="down" label=${t("toEnd")} onClick=${toEnd} />`}
      <${Composer} />
      <p class="caution">${t("caution")}</p>
    </div>
  `;
}

function Welcome() {
  return html`<div class="welcome">
    <${Mark} />
    <p class="greeting">${t("greeting")}</p>
    <p>${t("private")}</p>
  </div>`;
}

/** Keeps the end in sight while an answer grows, until the reader scrolls up; asking, or scrolling down, comes back. */
function useFollowing(conversation, lastQuestion) {
  const frame = useRef(null);
  const list = useRef(null);
  const following = useRef(true);
  const before = useRef({ top: 0, height: 0 });
  const [away, setAway] = useState(false);

  const toEnd = () => {
    following.current = true;
    frame.current.scrollTop = frame.current.scrollHeight;
    setAway(false);
  };
  useLayoutEffect(toEnd, [conversation, lastQuestion]);
  useEffect(() => {
    const box = frame.current;
    const look = () => {
      const { scrollTop: top, scrollHeight: height, clientHeight } = box;
      // Going up while the content stays as it is: that was the reader. Otherwise the browser made room.
      if (top < before.current.top && height === before.current.height) following.current = false;
      if (height - top - clientHeight < AT_END_PX) following.current = true;
      before.current = { top, height };
      setAway(!following.current);
    };
    box.addEventListener("scroll", look, { passive: true });
    return () => box.removeEventListener("scroll", look);
  }, []);
  useEffect(() => {
    if (!list.current) return undefined;
    const growth = new ResizeObserver(() => following.current && toEnd());
    growth.observe(list.current);
    growth.observe(frame.current);
    return () => growth.disconnect();
  }, [conversation]);
  return { frame, list, away, toEnd };
}

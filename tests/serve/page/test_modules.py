"""The page's modules by themselves, in the browser that runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.serve.page.conftest import OpenPage

RICH = (Path(__file__).parent / "scripts" / "rich.md").read_text(encoding="utf-8")


def test_events_are_the_same_however_their_bytes_are_cut(open_page: OpenPage) -> None:
    page = open_page()
    source = (
        "data: {a}\r\n\r\n: keep-alive\n\ndata:one\ndata: two\n\n"
        "event: x\ndata: 兼爱🀄\r\rdata: [DONE]\n\ndata: rest"
    )
    found = page.evaluate(
        """async (source) => {
            const place = document.querySelector("script[type=module]").src;
            const { events } = await import(new URL("sse.js", place));
            const bytes = new TextEncoder().encode(source);
            const all = [];
            for (let cut = 0; cut <= bytes.length; cut += 1) {
                const body = new ReadableStream({
                    start(controller) {
                        controller.enqueue(bytes.slice(0, cut));
                        controller.enqueue(bytes.slice(cut));
                        controller.close();
                    },
                });
                all.push(JSON.stringify(await Array.fromAsync(events(body))));
            }
            return [...new Set(all)];
        }""",
        source,
    )
    assert [json.loads(one) for one in found] == [["{a}", "one\ntwo", "兼爱🀄", "[DONE]"]]


def shown(page: Any, source: str, step: int) -> list[str]:
    """The HTML of a text that came in pieces of `step` characters, and of the text that came whole."""
    return page.evaluate(
        """async ([source, step]) => {
            const place = document.querySelector("script[type=module]").src;
            const { MarkdownView } = await import(new URL("markdown.js", place));
            const { loadHighlighter } = await import(new URL("highlight.js", place));
            const { loadMath } = await import(new URL("math.js", place));
            await Promise.all([loadHighlighter(), loadMath()]);
            const grown = document.createElement("div");
            const view = new MarkdownView(grown);
            for (let end = 0; end < source.length; end += step) view.update(source.slice(0, end), true);
            view.update(source, false);
            const whole = document.createElement("div");
            new MarkdownView(whole).update(source, false);
            return [grown.innerHTML, whole.innerHTML];
        }""",
        [source, step],
    )


def test_a_text_that_grew_is_the_text_that_came_whole(open_page: OpenPage) -> None:
    page = open_page()
    texts = [
        RICH,
        "- a\n\n- b\n\n  more\n- c\n\n\nend",
        "1. x\n\n2. y\n",
        "[r]: https://x.org\n\nsee [r]",
        "a\n===\n",
    ]
    for text in texts:
        for step in (1, 7):
            grown, whole = shown(page, text, step)
            assert grown == whole


def test_trees(open_page: OpenPage) -> None:
    page = open_page()
    found = page.evaluate(
        """async () => {
            const place = document.querySelector("script[type=module]").src;
            const tree = await import(new URL("tree.js", place));
            //  a - b - d        f - g
            //    \\ c - e (newer than d)
            const parents = { a: null, b: "a", c: "a", d: "b", e: "c", f: null, g: "f" };
            const all = Object.entries(parents).map(([id, parent]) => [id, { id, parent }]);
            const messages = new Map(all);
            const ids = (some) => some.map((one) => one.id).join(" ");
            const shown = tree.path(messages, "d");
            return [
                ids(shown),
                tree.siblings(messages, "b").join(" "),
                tree.siblings(messages, "a").join(" "),
                ["a", "b", "c", "e", "f"].map((id) => tree.leaf(messages, id)).join(" "),
                [...tree.branches(messages, shown).values()].map((some) => some.join(" ")).join(", "),
            ];
        }"""
    )
    assert found == ["a b d", "b c", "a f", "e d e e g", "a f, b c, d"]

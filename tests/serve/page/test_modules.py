"""The page's modules by themselves, in the browser that runs them."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import mohist.serve
from tests.serve.page.conftest import OpenPage

SERVE = Path(mohist.serve.__file__).parent
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


def test_errors_of_the_server_in_chinese(open_page: OpenPage) -> None:
    """By text with its numbers, by code and status, by code; else, and in English, as the server says it."""
    errors = [
        {
            "status": 422,
            "code": "invalid_request_error",
            "message": "the PDF has 1,234 pages; at most 500 are read",
        },
        {"status": 503, "code": "upstream", "message": "the server behind a is busy: try again"},
        {"status": 400, "code": "context_length_exceeded", "message": "too long by 3"},
        {"status": 400, "code": "upstream", "message": "the server behind a refused the request: no"},
        {"status": 0, "code": "", "message": ""},
        {"status": 500, "code": "toString", "message": "constructor"},
        {"status": 500, "message": "kept before errors had codes"},
    ]
    said = {}
    for language, locale in (("zh", "zh-CN"), ("en", "en-GB")):
        page = open_page(locale=locale)
        said[language] = page.evaluate(
            """async (errors) => {
                const place = document.querySelector("script[type=module]").src;
                const { explained } = await import(new URL("i18n.js", place));
                return errors.map(explained);
            }""",
            errors,
        )
    assert said["en"] == [error["message"] for error in errors]
    assert said["zh"][:3] == [
        "此 PDF 有 1,234 页，最多读取 500 页。",
        "提供此模型的服务器繁忙，请稍后再试。",
        "对话超过了此模型的上下文长度，请缩短。",
    ]
    assert said["zh"][3:] == said["en"][3:]


def test_known_errors_are_those_of_the_server() -> None:
    """Every text and code stands in the server's sources; a text has a place for each of its numbers."""
    said: set[str] = set()
    for path in SERVE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (str(part.value) if isinstance(part, ast.Constant) else "#" for part in node.values)
                said.add("".join(parts))
            elif isinstance(node, ast.Constant):
                said.add(str(node.value))
    # What the server fills in may be a word as well, such as the setting that names a limit.
    filled = [r"(?:#|[\w.]+)".join(map(re.escape, text.split("#"))) for text in said if text.strip("#")]
    source = (SERVE / "web" / "js" / "i18n" / "zh_errors.js").read_text(encoding="utf-8")
    entries = re.findall(r'^  (?:"(.+)"|(\w+)):\s+"(.+)",$', source, re.MULTILINE)
    assert len(entries) == source.count('",\n') > 25
    for quoted, bare, words in entries:
        text = re.sub(r"^(\w+) \d{3}$", r"\1", quoted or bare)
        assert any(re.fullmatch(pattern, text) for pattern in filled), text
        assert sorted(re.findall(r"\{(\d)\}", words)) == [str(i) for i in range(text.count("#"))]


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

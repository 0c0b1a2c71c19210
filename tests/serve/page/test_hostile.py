"""What a model writes is read, and does nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.serve.page.conftest import OpenPage
from tests.serve.page.talk import ask, attach, send

if TYPE_CHECKING:
    from playwright.sync_api import Page

HOSTILE = (Path(__file__).parent / "scripts" / "hostile.md").read_text(encoding="utf-8")
ELEMENTS = (
    "A BLOCKQUOTE BR BUTTON CODE DEL DIV EM FIGCAPTION FIGURE H3 H4 H5 H6 HR LI OL P PRE S SPAN STRONG "
    "TABLE TBODY TD TH THEAD TR UL"
)
"""All that Markdown may become; formulas have elements of their own, from KaTeX."""


@pytest.fixture
def requests() -> list[str]:
    return []


def inspect(page: Page, requests: list[str], origin: str) -> None:
    """Nothing ran, nothing was fetched, nothing is there that should not be."""
    page.wait_for_timeout(300)
    assert page.evaluate("window.hacked") is None
    assert [url for url in requests if not url.startswith((origin, "blob:"))] == []
    found = page.evaluate(
        """() => {
            const own = [...document.querySelectorAll(".prose *")].filter((one) => !one.closest(".katex"));
            const formulas = [...document.querySelectorAll(".prose .katex *")];
            const attributes = [...own, ...formulas].flatMap((one) => one.getAttributeNames());
            const links = [...document.querySelectorAll(".prose a")];
            const places = [...own, ...formulas].map((one) => getComputedStyle(one).position);
            return {
                elements: [...new Set(own.map((one) => one.tagName))],
                formulas: [...new Set(formulas.map((one) => one.tagName.toLowerCase()))],
                handlers: attributes.filter((name) => /^(on.*|id|src|name)$/.test(name)),
                links: links.map((one) => [one.href, one.rel, one.target]),
                classes: [...new Set(own.flatMap((one) => [...one.classList]))],
                fixed: places.filter((place) => place === "fixed").length,
            };
        }"""
    )
    assert set(found["elements"]) <= set(ELEMENTS.split())
    assert not {"a", "img", "script", "iframe", "foreignobject"} & set(found["formulas"])
    assert found["handlers"] == []
    assert found["fixed"] == 0
    assert {link[0].partition(":")[0] for link in found["links"]} <= {"https"}
    assert {tuple(link[1:]) for link in found["links"]} <= {("noopener noreferrer nofollow", "_blank")}
    known = {"block", "table", "code", "copy", "unreadable"}
    assert {name for name in found["classes"] if not name.startswith(("hljs-", "language"))} <= known


def test_a_hostile_answer(open_page: OpenPage, requests: list[str]) -> None:
    page = open_page()
    page.on("request", lambda request: requests.append(request.url))
    answer = ask(page, "be hostile")
    text = answer.inner_text()
    for shown in ("<script>window.hacked", "<img src=x", "<svg onload", "<iframe", "<style>body"):
        assert shown in text
    inspect(page, requests, page.url.partition("#")[0])
    # Every link that is left leads to a picture that was not fetched, or to the one harmless page.
    links = answer.locator("a").evaluate_all("all => all.map((one) => one.href)")
    assert set(links) == {"https://example.org/?a=1&b=%222%22", "https://evil.example/leak.png"}
    page.reload()
    page.wait_for_selector(".answer .katex")
    inspect(page, requests, page.url.partition("#")[0])


def test_a_hostile_question_title_and_file(open_page: OpenPage, requests: list[str]) -> None:
    page = open_page()
    page.on("request", lambda request: requests.append(request.url))
    name = "<img src=x onerror=window.hacked=1>.txt"
    attach(page, name, HOSTILE.encode())
    page.wait_for_selector(".composer .chip .name")
    send(page, "<img src=x onerror=window.hacked=1>\n" + HOSTILE)
    page.wait_for_selector(".answer .figures")
    page.locator(".question .chip button").click()
    page.wait_for_selector("dialog .file-text")
    inspect(page, requests, page.url.partition("#")[0])
    assert page.locator("dialog h2").inner_text() == name


def test_formulas_cannot_leave_their_message(open_page: OpenPage) -> None:
    page = open_page()
    answer = ask(page, "be hostile")
    assert answer.evaluate("one => getComputedStyle(one).contentVisibility") == "auto"
    # Painting is contained, so that what a formula moves far away is cut off at the message's border.
    covered = page.evaluate(
        """() => {
            const heights = Array.from({ length: innerHeight / 10 }, (_, index) => index * 10);
            const there = heights.map((y) => document.elementFromPoint(20, y));
            return there.filter((one) => one?.closest(".prose")).length;
        }"""
    )
    assert covered == 0


def test_the_policy_stops_what_slips_through(open_page: OpenPage, complaints: list[str]) -> None:
    page = open_page()
    refused = page.evaluate(
        """() => {
            const attempts = {
                innerHTML: () => { document.body.innerHTML = "<p>x</p>"; },
                inline: () => { document.createElement("script").text = "1"; },
                source: () => { document.createElement("script").src = "https://evil.example/x.js"; },
            };
            return Object.keys(attempts).filter((name) => {
                try { attempts[name](); return false; } catch { return true; }
            });
        }"""
    )
    assert refused == ["innerHTML", "inline", "source"]
    assert all("TrustedHTML" in text or "TrustedScript" in text for text in complaints)
    complaints.clear()

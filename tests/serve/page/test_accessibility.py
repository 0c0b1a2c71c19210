"""axe, an automated check against the Web Content Accessibility Guidelines, finds nothing serious."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Any

import pytest

from tests.serve.page.conftest import OpenPage
from tests.serve.page.talk import PHONE, ask, attach

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytest.importorskip("axe_playwright_python", reason="axe comes with axe-playwright-python")

AXE = (resources.files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")

LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark", "locale": "zh-CN"},
    "phone": {**PHONE, "color_scheme": "light"},
}


@pytest.fixture(params=LOOKS)
def look(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {**LOOKS[request.param], "reduced_motion": "reduce"}


def findings(page: Page) -> list[tuple[str, str, str]]:
    """(impact, rule, element) of every finding that is serious or worse."""
    page.evaluate(AXE)
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    assert len(found["passes"]) > 10
    return [
        (violation["impact"], violation["id"], node["html"][:200])
        for violation in found["violations"]
        for node in violation["nodes"]
        if violation["impact"] in ("serious", "critical")
    ]


def test_a_conversation(open_page: OpenPage, look: dict[str, Any]) -> None:
    page = open_page(**look)
    assert findings(page) == []
    page.click(".toggle")
    attach(page, "a.txt", b"abc")
    page.wait_for_selector(".chip .name")
    ask(page, "show me rich")
    page.click(".thinking summary")
    page.click(".figures summary")
    page.locator(".answer .actions button").nth(1).click()
    page.wait_for_selector(".branches")
    page.wait_for_selector(".send[type=submit]")
    ask(page, "please fail")
    page.fill("#message", "a draft")
    attach(page, "b.txt", b"abc")
    page.wait_for_selector(".composer .chip .name")
    assert findings(page) == []


def test_dialogs(open_page: OpenPage, look: dict[str, Any]) -> None:
    page = open_page(**look)
    ask(page, "What is 2 + 2?")
    page.locator(".answer .actions button").last.click()
    page.click(".replay button")
    page.wait_for_selector(".verdict")
    assert findings(page) == []
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")
    if page.locator(".top .phone").is_visible():
        page.click(".top .phone")
        page.wait_for_selector(".sidebar.open nav li a")
    for opener in (".sidebar nav li .icon-button", ".tools > :nth-child(2)", ".tools > :nth-child(5)"):
        page.locator(opener).dispatch_event("click")
        page.wait_for_selector("dialog[open]")
        assert findings(page) == []
        page.keyboard.press("Escape")
        page.wait_for_selector("dialog", state="detached")


def test_the_operators_view(open_page: OpenPage, look: dict[str, Any]) -> None:
    page = open_page("/#/admin", **look)
    page.wait_for_selector(".chart polyline")
    page.wait_for_selector("[aria-labelledby=usage] tbody tr")
    assert findings(page) == []

"""The page of a server that asks for keys: the browser asks for one, and the page may use another."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.serve.live import Live
from tests.serve.page.talk import ask, tell

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def test_without_a_key_there_is_no_page(browser: Browser, guarded: Live) -> None:
    context = browser.new_context(base_url=guarded.url)
    reply = context.request.get("/", headers={"Accept": "text/html"})
    assert reply.status == 401
    assert reply.headers["www-authenticate"].startswith("Basic ")
    context.close()


def test_a_key_is_the_password(browser: Browser, guarded: Live) -> None:
    key, admin = guarded.new_key("Ada"), guarded.new_key("Root", role="admin")
    context = browser.new_context(
        base_url=guarded.url, locale="en-US", http_credentials={"username": "ada", "password": key}
    )
    page = context.new_page()
    page.goto("/")
    page.wait_for_selector("#model option[value=default]", state="attached")
    page.click("[aria-label=Settings]")
    page.fill("#max_tokens", "4")
    page.press("#max_tokens", "Tab")
    page.keyboard.press("Escape")
    answer = ask(page, "Who are you?")
    # The model may end its answer before the limit.
    assert re.match("[1-4] tokens?", tell(answer.locator(".figures summary")))
    page.goto("/#/admin")
    assert tell(page.locator(".failure p").nth(1)) == "this needs the API key of an admin"
    page.click(".failure button")
    page.fill("#api-key", admin)
    page.press("#api-key", "Enter")
    page.keyboard.press("Escape")
    page.wait_for_selector("td:has-text('Ada')")
    context.close()

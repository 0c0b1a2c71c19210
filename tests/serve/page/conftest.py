"""A fake server and a real browser for the page's tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import pytest

from tests.serve.page import fake_server
from tests.serve.page.fake_server import FakeServer

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

OpenPage = Callable[..., "Page"]
"""Opens the page in a browser context of its own: `open_page(path="/", **context options)`."""


@pytest.fixture
def fake() -> Generator[FakeServer]:
    """A fresh server."""
    with fake_server.running() as server:
        yield server


# Not for the session: while it is there, playwright's event loop counts as running in this thread.
@pytest.fixture(scope="module")
def browser() -> Generator[Browser]:
    """Chromium, without a window."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="the page's tests need playwright")
    if CHROMIUM is None:
        pytest.skip("the page's tests need chromium, which is not installed")
    # Chromium's sandbox refuses to be started by root.
    args = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=args)
        yield chromium
        chromium.close()


@pytest.fixture
def complaints() -> list[str]:
    """What pages wrote to their consoles. A test that expects something takes it out."""
    return []


@pytest.fixture
def open_page(browser: Browser, fake: FakeServer, complaints: list[str]) -> Generator[OpenPage]:
    """See `OpenPage`. Afterwards the console of every page must have been silent."""
    contexts = []

    def open_page(path: str = "/", **options: Any) -> Page:
        options.setdefault("locale", "en-US")
        context = browser.new_context(base_url=fake.url, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(path)
        page.wait_for_selector("html[data-ready]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    expected = (
        "Failed to load resource: the server responded with a status",
        "Failed to load resource: net::ERR_",
    )
    assert [text for text in complaints if not text.startswith(expected)] == []

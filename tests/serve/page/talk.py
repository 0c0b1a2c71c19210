"""What a person does on the page, as words for tests."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "has_touch": True,
    "is_mobile": True,
}


def send(page: Page, text: str) -> None:
    """Ask; the answer may still be coming."""
    page.fill("#message", text)
    page.press("#message", "Enter")


def ask(page: Page, text: str) -> Locator:
    """Ask, wait for the whole answer, and give it."""
    before = page.locator(".answer").count()
    send(page, text)
    answer = page.locator(".answer").nth(before)
    answer.wait_for()
    page.wait_for_selector(".send[type=submit]")
    return answer


def questions(page: Page) -> list[str]:
    return page.locator(".bubble").all_inner_texts()


def answers(page: Page) -> list[str]:
    return [text.strip() for text in page.locator(".answer > .prose").all_inner_texts()]


def seeds(page: Page) -> list[int]:
    """The seeds that the fake server's plain answers name."""
    return [int(match.group(1)) for text in answers(page) if (match := re.search(r"Seed (\d+)", text))]


def titles(page: Page) -> list[str]:
    return page.locator(".sidebar nav li a span").all_inner_texts()


def kept(page: Page) -> list[dict[str, Any]]:
    """All messages in the browser's database, oldest first."""
    return page.evaluate(
        """() => new Promise((resolve, reject) => {
            const opening = indexedDB.open("mohist");
            opening.onerror = reject;
            opening.onsuccess = () => {
                const all = opening.result.transaction("messages").objectStore("messages").getAll();
                all.onsuccess = () => {
                    opening.result.close();
                    resolve(all.result.sort((a, b) => a.created - b.created));
                };
            };
        })"""
    )


def tell(locator: Locator) -> str:
    return locator.inner_text().strip()


def until(page: Page, holds: Callable[[], bool], within_s: float = 30) -> None:
    """Wait until something holds. Playwright's own waiting evaluates text, which the policy forbids."""
    end_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end_s, "it did not come true"
        page.wait_for_timeout(20)


def attach(page: Page, name: str, data: bytes) -> None:
    """Choose a file; it may still be being read."""
    page.set_input_files("input[type=file]", [{"name": name, "mimeType": "", "buffer": data}])

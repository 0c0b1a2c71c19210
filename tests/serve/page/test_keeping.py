"""Nothing is lost: reloads, drafts, search, renaming, deleting and undoing it, files out and in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from tests.serve.page.conftest import OpenPage
from tests.serve.page.fake_server import FakeServer
from tests.serve.page.talk import answers, ask, attach, kept, questions, send, tell, titles, until

if TYPE_CHECKING:
    from playwright.sync_api import Page


def test_a_conversation_outlives_a_reload(open_page: OpenPage, fake: FakeServer) -> None:
    page = open_page()
    page.click(".toggle")
    ask(page, "What is 2 + 2?")
    before = page.locator(".messages").inner_text()
    page.reload()
    page.wait_for_selector(".answer")
    assert page.locator(".messages").inner_text() == before
    assert titles(page) == ["What is 2 + 2?"]
    # Another tab has it too, and the conversation goes on with all that was said.
    ask(page, "And 3 + 3?")
    assert [m["content"] for m in fake.requests[1]["messages"]][:2] == [
        "What is 2 + 2?",
        kept(page)[1]["text"],
    ]


def test_a_reload_in_the_middle_of_an_answer(open_page: OpenPage) -> None:
    page = open_page()
    send(page, "something slow")
    page.wait_for_selector("text=word30")
    page.reload()
    page.wait_for_selector("text=Interrupted: the page was closed")
    assert answers(page)[0].startswith("word0 word1 word2")
    assert "word30" in answers(page)[0]
    page.click("[aria-label='Answer again']")
    page.click("[aria-label=Stop]")
    page.wait_for_selector("text=2 / 2")


def test_a_draft_waits_with_its_files(open_page: OpenPage) -> None:
    page = open_page()
    ask(page, "one")
    page.fill("#message", "half a thought")
    attach(page, "a.txt", b"abc")
    page.wait_for_selector(".composer .chip .name")
    page.click("text=New conversation")
    until(page, lambda: page.input_value("#message") == "")
    page.fill("#message", "something else")
    page.click(".sidebar >> text=one")
    until(page, lambda: page.input_value("#message") == "half a thought")
    page.reload()
    page.wait_for_selector(".composer .chip:has-text('a.txt')")
    assert page.input_value("#message") == "half a thought"
    page.click("text=New conversation")
    until(page, lambda: page.input_value("#message") == "something else")


def test_search_looks_into_titles_and_messages(open_page: OpenPage) -> None:
    page = open_page()
    for text in ("Apples and pears", "What is 兼爱?", "Numbers"):
        page.keyboard.press("Control+Shift+O")
        ask(page, text)
    assert titles(page) == ["Numbers", "What is 兼爱?", "Apples and pears"]
    page.keyboard.press("Control+K")
    page.keyboard.type("pears APPLES")
    until(page, lambda: titles(page) == ["Apples and pears"])
    page.fill("#search", "兼爱")
    until(page, lambda: titles(page) == ["What is 兼爱?"])
    page.fill("#search", "answer is four")
    until(page, lambda: len(titles(page)) == 3)
    page.fill("#search", "nowhere to be found")
    page.wait_for_selector("text=Nothing found.")


def open_menu(page: Page, title: str) -> None:
    page.hover(f".sidebar li:has-text('{title}')")
    page.click(f".sidebar li:has-text('{title}') .icon-button")


def test_renaming(open_page: OpenPage) -> None:
    page = open_page()
    ask(page, "one")
    open_menu(page, "one")
    page.fill("#title", "  A better name ")
    page.press("#title", "Enter")
    until(page, lambda: titles(page) == ["A better name"])
    assert page.title() == "A better name · Mohist"
    page.reload()
    until(page, lambda: titles(page) == ["A better name"])


def test_deleting_and_undoing_it(open_page: OpenPage) -> None:
    page = open_page()
    ask(page, "one")
    ask(page, "two")
    open_menu(page, "one")
    page.click("text=Delete")
    page.wait_for_selector(".welcome")
    assert (titles(page), page.url.partition("#")[2]) == ([], "/")
    until(page, lambda: kept(page) == [])
    page.click("text=Undo")
    until(page, lambda: titles(page) == ["one"])
    page.click(".sidebar nav a")
    until(page, lambda: questions(page) == ["one", "two"])


def test_deleting_everything_asks_twice(open_page: OpenPage) -> None:
    page = open_page()
    ask(page, "one")
    page.click("[aria-label=Settings]")
    page.click("text=Delete all")
    assert titles(page) == ["one"]
    page.click("text=Really delete all?")
    page.wait_for_selector(".welcome")
    page.reload()
    page.wait_for_selector("text=Your conversations will be listed here.")
    assert kept(page) == []


def test_export_as_markdown(open_page: OpenPage) -> None:
    page = open_page()
    page.click(".toggle")
    ask(page, "What is 2/2?")
    open_menu(page, "What is 2/2?")
    with page.expect_download() as download:
        page.click("text=Export as Markdown")
    assert download.value.suggested_filename == "What is 2 2.md"
    lines = Path(download.value.path()).read_text(encoding="utf-8").splitlines()
    assert (lines[0], lines[4], lines[6]) == ("# What is 2/2?", "## You", "What is 2/2?")
    assert lines[8] == "## thinker-7b"
    assert lines[10].startswith("> First I look at **both** numbers.")
    assert lines[12].startswith("The answer is four.")


def test_export_and_import(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page()
    ask(page, "one")
    page.click("[aria-label='Answer again']")
    page.wait_for_selector("text=2 / 2")
    page.wait_for_selector(".send[type=submit]")
    page.click("[aria-label=Settings]")
    with page.expect_download() as download:
        page.click("text=Export all")
    exported = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert exported["format"] == "mohist-conversations"
    assert len(exported["conversations"][0]["messages"]) == 3
    other = open_page()
    other.click("[aria-label=Settings]")
    other.set_input_files("input[accept]", download.value.path())
    other.wait_for_selector("text=Imported one conversation.")
    other.keyboard.press("Escape")
    other.click(".sidebar nav a")
    until(other, lambda: questions(other) == ["one"])
    assert kept(other) == kept(page)
    tmp_path.joinpath("other.json").write_text('{"format": "x"}', encoding="utf-8")
    other.click("[aria-label=Settings]")
    other.set_input_files("input[accept]", tmp_path / "other.json")
    assert tell(other.locator("[role=alert]")) == "other.json is not a file that was exported here."


def test_a_browser_that_keeps_nothing_still_talks(open_page: OpenPage, fake: FakeServer) -> None:
    page = open_page()
    page.add_init_script(
        "Object.defineProperty(window, 'indexedDB', {value: {open() { throw new Error('off'); }}})"
    )
    page.reload()
    page.wait_for_selector("text=This browser is not keeping conversations (off).")
    ask(page, "one")
    ask(page, "two")
    assert questions(page) == ["one", "two"]
    assert len(fake.requests[1]["messages"]) == 3
    page.click("text=New conversation")
    ask(page, "three")
    page.click(".sidebar >> text=one")
    until(page, lambda: questions(page) == ["one", "two"])


def test_a_long_conversation_stays_fast(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page()
    count, text = 600, (Path(__file__).parent / "scripts" / "rich.md").read_text(encoding="utf-8")
    messages = [
        {
            "id": f"m{i}",
            "conversation": "c",
            "parent": f"m{i - 1}" if i else None,
            "role": "assistant" if i % 2 else "user",
            "created": i,
            "text": text if i % 2 else f"question {i}",
            **({"status": "done", "reasoning": ""} if i % 2 else {"files": []}),
        }
        for i in range(count)
    ]
    one = {
        "id": "c",
        "title": "long",
        "created": 0,
        "updated": 1,
        "head": f"m{count - 1}",
        "messages": messages,
    }
    file = tmp_path / "long.json"
    file.write_text(json.dumps({"format": "mohist-conversations", "version": 1, "conversations": [one]}))
    page.click("[aria-label=Settings]")
    page.set_input_files("input[accept]", file)
    page.wait_for_selector("text=Imported one conversation.")
    page.keyboard.press("Escape")
    page.click(".sidebar nav a")
    until(page, lambda: page.locator(".answer").count() == count // 2)
    # How long the page needs to take in a letter, or a piece of an answer, and to draw itself again.
    page.evaluate(
        """() => {
            const longest = (window.longest = []);
            const take = (list) => longest.push(...list.getEntries().map((entry) => entry.duration));
            new PerformanceObserver(take).observe({ type: "longtask" });
        }"""
    )
    page.press("#message", "a")
    ask(page, "What is 2 + 2?")
    assert max(page.evaluate("window.longest"), default=0) < 500

"""A conversation from question to answer: thinking, stopping, editing, asking again, files, errors."""

from __future__ import annotations

import json
import re

import pytest

from tests.serve.page.conftest import OpenPage
from tests.serve.page.fake_server import FakeServer
from tests.serve.page.pdfs import pdf_of
from tests.serve.page.talk import answers, ask, attach, kept, questions, seeds, send, tell, until


def test_an_answer_with_its_figures(open_page: OpenPage, fake: FakeServer) -> None:
    page = open_page()
    answer = ask(page, "What is 2 + 2?")
    assert re.fullmatch(r"The answer is four\. Seed \d+\.", tell(answer.locator(".prose")))
    figures = answer.locator(".figures summary")
    # 12 prompt tokens at 0.2, 8 cached ones at 0.02 and 6 of the answer at 0.6 dollars a million.
    assert re.fullmatch(r"6 tokens\s+[\d.,]+ tokens/s\s+\$0\.0000062", tell(figures))
    figures.click()
    names = answer.locator(".figures dt").all_inner_texts()
    values = answer.locator(".figures dd").all_inner_texts()
    assert names == ["Model", "Prompt tokens", "Answer tokens", "First token after", "Whole answer", "Seed"]
    assert values[:3] == ["thinker-7b", "20 (8 cached)", "6"]
    assert int(values[5]) == seeds(page)[0] == fake.requests[0]["seed"]
    assert fake.requests[0] == {
        "model": "default",
        "messages": [{"role": "user", "content": "What is 2 + 2?"}],
        "thinking": {"type": "disabled"},
        "seed": seeds(page)[0],
        "receipt": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert page.title() == "What is 2 + 2? · Mohist"


def test_thinking_is_folded_and_timed(open_page: OpenPage, fake: FakeServer) -> None:
    page = open_page()
    page.click("text=Deep thinking")
    send(page, "What is 2 + 2?")
    page.wait_for_selector("text=Thinking…")
    page.wait_for_selector(".send[type=submit]")
    thinking = page.locator(".thinking")
    assert re.fullmatch(r"Thought for 0\.\d s", tell(thinking.locator("summary")))
    assert not thinking.locator(".prose").is_visible()
    thinking.locator("summary").click()
    assert "First I look at both numbers." in tell(thinking.locator(".prose"))
    thinking.locator(".katex").wait_for()  # the library for it is fetched when it is first needed
    assert fake.requests[0]["thinking"] == {"type": "enabled"}
    # What was thought is no part of the conversation that goes on.
    ask(page, "And 3 + 3?")
    assert [message["role"] for message in fake.requests[1]["messages"]] == ["user", "assistant", "user"]
    assert "look at" not in json.dumps(fake.requests[1])


def test_a_model_that_does_not_think_is_not_asked_to(open_page: OpenPage, fake: FakeServer) -> None:
    page = open_page()
    page.click("text=Deep thinking")
    page.select_option("#model", "tiny")
    assert page.locator(".toggle").is_disabled()
    ask(page, "What is 2 + 2?")
    assert fake.requests[0]["model"] == "tiny"
    assert "thinking" not in fake.requests[0]


def test_a_model_of_another_server_has_no_receipts(open_page: OpenPage, fake: FakeServer) -> None:
    page = open_page()
    page.select_option("#model", "far")
    ask(page, "What is 2 + 2?")
    assert fake.requests[0]["model"] == "far"
    assert "receipt" not in fake.requests[0]
    assert page.locator("[aria-label=Receipt]").count() == 0


@pytest.mark.parametrize("how", ["button", "escape"])
def test_stopping_keeps_what_came(open_page: OpenPage, fake: FakeServer, how: str) -> None:
    page = open_page()
    send(page, "something slow")
    page.wait_for_selector("text=word20")
    if how == "button":
        page.click("[aria-label=Stop]")
    else:
        page.keyboard.press("Escape")
    page.wait_for_selector("text=Stopped.")
    (text,) = answers(page)
    assert text.startswith("word0 word1 word2")
    page.wait_for_timeout(300)
    assert answers(page) == [text]
    assert fake.disconnects == 1
    assert kept(page)[-1]["text"].strip() == text
    ask(page, "go on")
    assert fake.requests[1]["messages"][1] == {"role": "assistant", "content": kept(page)[1]["text"]}


def test_asking_again_adds_a_version(open_page: OpenPage, fake: FakeServer) -> None:
    page = open_page()
    ask(page, "What is 2 + 2?")
    (first,) = seeds(page)
    page.click("[aria-label='Answer again']")
    page.wait_for_selector("text=2 / 2")
    page.wait_for_selector(".send[type=submit]")
    (second,) = seeds(page)
    assert second != first
    assert fake.requests[1]["messages"] == fake.requests[0]["messages"]
    page.click("[aria-label='Previous version']")
    page.wait_for_selector("text=1 / 2")
    assert seeds(page) == [first]
    # The conversation goes on from the version that is shown.
    ask(page, "Really?")
    assert str(first) in fake.requests[2]["messages"][1]["content"]


def test_editing_a_question_begins_a_branch(open_page: OpenPage, fake: FakeServer) -> None:
    page = open_page()
    ask(page, "one")
    ask(page, "two")
    page.locator(".question").first.hover()
    page.locator(".question").first.locator("[aria-label=Edit]").click()
    page.fill(".editor textarea", "uno")
    page.press(".editor textarea", "Enter")
    page.wait_for_selector("text=2 / 2")
    page.wait_for_selector(".send[type=submit]")
    assert questions(page) == ["uno"]
    assert [message["content"] for message in fake.requests[2]["messages"]] == ["uno"]
    page.locator(".question").first.hover()
    page.click("[aria-label='Previous version']")
    until(page, lambda: questions(page) == ["one", "two"])
    page.reload()
    page.wait_for_selector(".answer")
    assert questions(page) == ["one", "two"]
    assert len(kept(page)) == 6


def test_the_arrow_edits_the_last_question_and_escape_leaves_it(open_page: OpenPage) -> None:
    page = open_page()
    ask(page, "one")
    page.press("#message", "ArrowUp")
    page.wait_for_selector(".editor textarea:focus")
    page.keyboard.press("Escape")
    page.wait_for_selector(".editor", state="detached")
    assert questions(page) == ["one"]


def test_a_fixed_seed_moves_on_with_every_version(open_page: OpenPage, fake: FakeServer) -> None:
    page = open_page()
    page.click("[aria-label=Settings]")
    page.fill("#seed", "7")
    page.press("#seed", "Tab")
    page.fill("#temperature", "0.5")
    page.press("#temperature", "Tab")
    page.fill("#system", "Be brief.")
    page.keyboard.press("Escape")
    ask(page, "What is 2 + 2?")
    page.click("[aria-label='Answer again']")
    page.wait_for_selector("text=2 / 2")
    page.wait_for_selector(".send[type=submit]")
    assert [request["seed"] for request in fake.requests] == [7, 8]
    assert fake.requests[0]["temperature"] == 0.5
    assert fake.requests[0]["messages"][0] == {"role": "system", "content": "Be brief."}


def test_files_become_context(open_page: OpenPage, fake: FakeServer) -> None:
    page = open_page()
    attach(page, "notes.txt", "兼爱 非攻\r\n".encode())
    attach(page, "old.txt", "节用".encode("gb18030"))
    attach(page, "paper.pdf", pdf_of("All are one.", "Yes."))
    until(page, lambda: page.locator(".composer .chip .name").count() == 3)
    chips = page.locator(".composer .chip").all_inner_texts()
    assert [chip.split("\n") for chip in chips] == [
        ["notes.txt", "6 characters"],
        ["old.txt", "2 characters"],
        ["paper.pdf", "2 pages"],
    ]
    page.fill("#message", "Compare them.")
    page.wait_for_selector(".composer .tokens:has-text('18 tokens')")
    page.click("[aria-label='Remove old.txt']")
    page.press("#message", "Enter")
    page.wait_for_selector(".question .chip:has-text('paper.pdf')")
    assert fake.requests[0]["messages"][0]["content"] == (
        '<file name="notes.txt">\n兼爱 非攻\n\n</file>\n\n'
        '<file name="paper.pdf">\nAll are one.\n\nYes.\n</file>\n\nCompare them.'
    )
    page.locator(".question .chip button").first.click()
    assert page.locator("dialog .file-text").inner_text() == "兼爱 非攻\n"


@pytest.mark.parametrize(
    ("name", "data", "complaint"),
    [
        ("image.png", b"\x89PNG\r\n\x1a\n\x00\x00\xff\xfe\xfd", "image.png is neither text nor a PDF."),
        ("empty.txt", b"  \n", "empty.txt is empty."),
        ("broken.pdf", b"nothing", "broken.pdf: this is not a PDF file"),
        ("scan.pdf", pdf_of(""), "scan.pdf has no text in it; it may be a scan."),
        ("huge.pdf", b"%" * 12_345_678, "huge.pdf has 12.3 MB; this server takes at most 2 MB."),
        ("long.txt", b"x" * 1_600_000, "long.txt has 1.6 MB; this server takes at most 1.5 MB."),
    ],
)
def test_files_that_cannot_be_read_say_why(
    open_page: OpenPage, name: str, data: bytes, complaint: str
) -> None:
    page = open_page()
    attach(page, name, data)
    assert tell(page.locator("[role=alert]")) == complaint
    assert page.locator(".composer .chip").count() == 0


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("fail", ["The server cannot answer this.", "the prompt has 9,000 tokens, and 8,192 fit"]),
        ("busy", ["The server is busy.", "the queue is full", "Try again in 7 s."]),
        ("break", ["The server had a problem.", "the model was unloaded"]),
    ],
)
def test_errors_say_what_to_do(open_page: OpenPage, script: str, complaint: list[str]) -> None:
    page = open_page()
    answer = ask(page, f"please {script}")
    assert [tell(p) for p in answer.locator(".failure p").all()] == [*complaint, "Try again"]
    if script == "break":
        assert answers(page) == ["Half of an"]
    page.click(".failure button")
    page.wait_for_selector("text=2 / 2")


def test_errors_say_it_in_chinese(open_page: OpenPage) -> None:
    answer = ask(open_page(locale="zh-CN"), "please busy")
    assert [tell(p) for p in answer.locator(".failure p").all()][:2] == [
        "服务器繁忙。",
        "服务器暂时没有余力处理此请求，请稍后再试。",
    ]


def test_a_server_that_is_gone(open_page: OpenPage) -> None:
    page = open_page()
    page.context.set_offline(True)
    answer = ask(page, "Are you there?")
    assert tell(answer.locator("strong")) == "The connection was lost."
    page.context.set_offline(False)
    page.click(".failure button")
    page.wait_for_selector("text=The answer is four.")


def test_tool_calls_are_shown(open_page: OpenPage) -> None:
    page = open_page()
    answer = ask(page, "call a tool")
    assert tell(answer.locator("figcaption")) == "Tool call: weather"
    assert tell(answer.locator("code")) == '{"city": "北京"}'


@pytest.mark.parametrize("honest", [True, False])
def test_a_receipt_is_replayed(open_page: OpenPage, fake: FakeServer, honest: bool) -> None:
    fake.honest = honest
    fake.doubt = "the form was compiled by another version"
    page = open_page()
    ask(page, "What is 2 + 2?")
    page.click("[aria-label=Receipt]")
    page.click(".replay button")
    verdict = tell(page.locator(".verdict"))
    if honest:
        assert verdict == "Identical, token for token."
    else:
        assert [line for line in verdict.split("\n") if line] == [
            "Not the same answer, from token 4 on.",
            "The receipt has token 7 (-0.5).",
            "The replay has token –.",
            "This may be why: the form was compiled by another version.",
        ]
    page.click("text=What the receipt says")
    assert json.loads(page.locator(".receipt-source pre").inner_text())["weights"] == "fake"


def test_another_conversation_while_one_is_answered(open_page: OpenPage, fake: FakeServer) -> None:
    page = open_page()
    send(page, "something slow")
    page.wait_for_selector("text=word9")
    page.click("text=New conversation")
    ask(page, "What is 2 + 2?")
    assert questions(page) == ["What is 2 + 2?"]
    page.wait_for_selector("[aria-label='Being answered']")
    page.click(".sidebar >> text=something slow")
    page.wait_for_selector("[aria-label=Stop]")
    before = len(answers(page)[0])
    until(page, lambda: len(answers(page)[0]) > before + 20)
    page.click("[aria-label=Stop]")
    page.wait_for_selector("text=Stopped.")
    assert fake.disconnects == 1


def test_enter_that_ends_a_composition_does_not_send(open_page: OpenPage, fake: FakeServer) -> None:
    page = open_page()
    page.fill("#message", "ni hao")
    page.dispatch_event("#message", "keydown", {"key": "Enter", "isComposing": True})
    page.dispatch_event("#message", "keydown", {"key": "Enter", "keyCode": 229})
    page.press("#message", "Shift+Enter")
    assert page.input_value("#message") == "ni hao\n"
    assert fake.requests == []

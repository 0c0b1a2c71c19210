"""Languages, themes, keys of the keyboard and of the API."""

from __future__ import annotations

import pytest

from tests.serve.page.conftest import OpenPage
from tests.serve.page.fake_server import FakeServer
from tests.serve.page.talk import PHONE, ask, tell, until


@pytest.mark.parametrize(
    ("locale", "lang", "greeting"),
    [
        ("en-GB", "en", "What shall we think about?"),
        ("zh-TW", "zh-Hans", "今天想思考什么？"),
        ("de-DE", "en", "What shall we think about?"),
    ],
)
def test_the_browser_chooses_the_language(open_page: OpenPage, locale: str, lang: str, greeting: str) -> None:
    page = open_page(locale=locale)
    assert tell(page.locator(".greeting")) == greeting
    assert page.get_attribute("html", "lang") == lang


def test_the_switch_changes_the_language_and_nothing_else(open_page: OpenPage) -> None:
    page = open_page()
    page.click(".toggle")
    ask(page, "show me rich")
    page.fill("#message", "half a thought")
    page.click("text=中文")
    page.wait_for_selector("text=深度思考")
    assert page.get_attribute("html", "lang") == "zh-Hans"
    assert tell(page.locator(".thinking summary")).startswith("思考了 0.")
    assert tell(page.locator(".figures summary")).startswith("50 个 token")
    assert tell(page.locator(".copy")) == "复制"
    assert page.input_value("#message") == "half a thought"
    page.reload()
    page.wait_for_selector("text=新对话")
    page.click("text=EN")
    page.wait_for_selector("text=New conversation")


def background(page: object) -> str:
    return page.evaluate("getComputedStyle(document.documentElement).backgroundColor")  # ty: ignore


def test_themes(open_page: OpenPage) -> None:
    light, dark = "rgb(251, 250, 247)", "rgb(24, 26, 28)"
    page = open_page(color_scheme="dark")
    assert background(page) == dark
    page.click("[aria-label='Theme: as the system']")
    assert background(page) == light
    page.click("[aria-label='Theme: light']")
    assert background(page) == dark
    page.emulate_media(color_scheme="light")
    assert background(page) == dark
    page.reload()
    page.wait_for_selector("[aria-label='Theme: dark']")
    assert background(page) == dark
    page.click("[aria-label='Theme: dark']")
    assert background(page) == light


@pytest.mark.parametrize("remembered", [False, True])
def test_a_server_that_wants_a_key(open_page: OpenPage, fake: FakeServer, remembered: bool) -> None:
    fake.key = "sk-mohist-0-secret"
    page = open_page()
    assert tell(page.locator(".banner span")) == "This server asks for an API key."
    page.click(".banner button")
    page.fill("#api-key", "wrong")
    page.press("#api-key", "Enter")
    page.wait_for_selector("dialog .verdict.bad")
    page.fill("#api-key", fake.key)
    if remembered:
        page.check("#remember")
    page.press("#api-key", "Enter")
    page.wait_for_selector("text=The server answers.")
    page.keyboard.press("Escape")
    assert page.locator(".banner").count() == 0
    ask(page, "What is 2 + 2?")
    page.reload()
    page.wait_for_selector(".answer")
    until(page, lambda: page.locator("#model option").count() == 4)
    tab = page.context.new_page()
    tab.goto("/")
    tab.wait_for_selector("html[data-ready]")
    until(tab, lambda: tab.locator(".banner").count() != tab.locator("#model option[value=tiny]").count())
    assert tab.locator(".banner").count() == (0 if remembered else 1)


def test_the_keyboard_is_enough(open_page: OpenPage) -> None:
    page = open_page()
    assert page.evaluate("document.activeElement.id") == "message"
    page.keyboard.type("What is 2 + 2?")
    page.keyboard.press("Enter")
    page.wait_for_selector(".answer .figures")
    page.keyboard.press("Control+K")
    until(page, lambda: page.evaluate("document.activeElement.id") == "search")
    page.focus("#message")
    # Whoever types on at once types into the search.
    focused = """() => {
        dispatchEvent(new KeyboardEvent("keydown", { key: "k", ctrlKey: true }));
        return document.activeElement.id;
    }"""
    assert page.evaluate(focused) == "search"
    page.keyboard.press("Control+Shift+L")
    assert page.evaluate("document.activeElement.id") == "message"
    page.keyboard.press("Control+/")
    page.wait_for_selector("dialog >> text=Keyboard shortcuts")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")
    # A dialog gives the focus back to what opened it.
    page.focus("[aria-label=Settings]")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")
    assert page.evaluate("document.activeElement.ariaLabel") == "Settings"
    page.keyboard.press("Control+Shift+O")
    page.wait_for_selector(".welcome")
    assert page.evaluate("document.activeElement.id") == "message"


def test_a_dialog_that_follows_another_at_once_stays(open_page: OpenPage) -> None:
    page = open_page()
    page.click("[aria-label=Settings]")
    page.wait_for_selector("dialog >> text=Settings")
    page.evaluate(
        """async () => {
            document.querySelector("dialog").close();  // of which the page is told later
            document.querySelector("[aria-label='Keyboard shortcuts']").click();
            await new Promise((done) => setTimeout(done, 200));
        }"""
    )
    assert tell(page.locator("dialog[open] h2")) == "Keyboard shortcuts"


def test_a_screen_reader_hears_beginnings_and_ends_only(open_page: OpenPage) -> None:
    page = open_page()
    page.evaluate(
        """() => {
            window.heard = [];
            const region = document.querySelector("[role=status]");
            new MutationObserver(() => window.heard.push(region.textContent.trim()))
                .observe(region, { childList: true, characterData: true, subtree: true });
        }"""
    )
    ask(page, "show me rich")
    page.wait_for_timeout(100)
    assert page.evaluate("window.heard") == ["Answering", "Answer complete, 30 tokens"]


def test_on_a_phone_the_list_comes_and_goes(open_page: OpenPage) -> None:
    page = open_page(**PHONE)
    assert page.evaluate("document.activeElement.id") != "message"
    ask(page, "one")
    assert not page.locator(".sidebar nav").is_visible()
    page.click("button[aria-label=Conversations]")
    page.wait_for_selector(".sidebar nav >> text=one")
    page.click("text=New conversation")
    page.wait_for_selector(".welcome")
    until(page, lambda: not page.locator(".sidebar nav").is_visible())
    assert page.evaluate("document.documentElement.scrollWidth") == 390

"""The operator's view: models, aliases, keys, usage, throughput."""

from __future__ import annotations

import pytest

from tests.serve.page.conftest import OpenPage
from tests.serve.page.fake_server import FakeServer
from tests.serve.page.talk import tell, until


def test_throughput(open_page: OpenPage) -> None:
    page = open_page("/#/admin")
    page.wait_for_selector(".chart polyline")
    tiles = [tile.split("\n") for tile in page.locator(".tiles div").all_inner_texts()]
    # The last look at second 99: both models at 1.1 times their speed.
    assert tiles == [
        ["generated tokens/s", "264"],
        ["computed tokens/s", "720"],
        ["running", "6"],
        ["waiting", "2"],
    ]
    assert page.locator(".chart polyline").count() == 2
    label = "Generated tokens a second over the last minutes; now 264."
    assert page.get_attribute(".chart svg", "aria-label") == label


def test_models_and_aliases(open_page: OpenPage, fake: FakeServer) -> None:
    page = open_page("/#/admin")
    page.fill("input[placeholder^='hf:']", "hf:example/new")
    page.fill("label:has-text('Name (optional)') input", "new")
    page.click("button:text-is('Load')")
    page.wait_for_selector("td:has-text('hf:example/new')")
    page.select_option("label:has-text('stands for') select", "new")
    page.click("button:text-is('Switch')")
    until(page, lambda: fake.aliases == {"default": "new"})
    page.fill("label:has-text('Alias') input", "fast")
    page.click("button:text-is('Switch')")
    until(page, lambda: fake.aliases == {"default": "new", "fast": "new"})
    page.click("button:text-is('Remove')")
    until(page, lambda: fake.aliases == {"default": "new"})
    page.click("[aria-label='Unload tiny']")
    until(page, lambda: "tiny" not in fake.models)
    page.wait_for_selector("td:has-text('tiny.gguf')", state="detached")
    page.fill("input[placeholder^='hf:']", "missing")
    page.click("button:text-is('Load')")
    assert tell(page.locator("[role=alert]")) == "missing: no such model"


def test_all_settings_of_a_model_can_be_given_and_are_shown(open_page: OpenPage, fake: FakeServer) -> None:
    settings = {"quantize": "q8_0", "speculate": "off", "cache_tokens": None, "threads": 2, "at_start": False}
    fake.models["tiny"]["settings"] = {**settings, "adapters": ["law=/a"]}
    page = open_page("/#/admin")
    said = "Format of matrices: q8_0 · Threads: 2 · Guessing ahead: off · :law · loaded when asked for"
    assert tell(page.locator("td:has-text('tiny.gguf')")).split("\n")[-1] == said
    page.fill("input[placeholder^='hf:']", "m.gguf")
    page.click("text=More settings")
    page.select_option("label:has-text('Format of matrices') select", "q4_1")
    for label, text in {
        "Guessing ahead": "mtp",
        "Cache, tokens": "4096",
        "LoRA adapters": "law=/a, verse=/b",
        "Currency": "CNY",
        "… of generated ones": "8.5",
    }.items():
        page.fill(f"label:has-text('{label}') input", text)
    page.uncheck("label:has-text('Load it at every start') input")
    page.click("button:text-is('Load')")
    until(page, lambda: len(fake.wanted) == 1)
    assert fake.wanted[0] == {
        "source": "m.gguf",
        "name": "",
        "quantize": "q4_1",
        "speculate": "mtp",
        "cache_tokens": 4096,
        "adapters": ["law=/a", "verse=/b"],
        "prices": {"currency": "CNY", "completion_per_million": 8.5},
        "at_start": False,
    }


def test_what_is_not_as_the_config_says_is_shown(open_page: OpenPage, fake: FakeServer) -> None:
    fake.models["tiny"] |= {"state": "failed", "error": "tiny.gguf: no such file or folder"}
    at = {"at_ms": 1_790_000_000_000, "problem": None}
    fake.changes = [
        {"kind": "alias", "name": "default", "configured": "tiny", "changed": "thinker-7b", **at},
        {"kind": "alias", "name": "fast", "configured": None, "changed": "tiny", **at},
        {"kind": "model", "name": "tiny", "configured": None, "changed": 'source = "tiny.gguf"', **at},
        {"kind": "model", "name": "old", "configured": "x", "changed": None, **at, "problem": "it is needed"},
    ]
    page = open_page("/#/admin")
    page.wait_for_selector("text=4 changes since the config")
    rows = page.locator("[aria-label='Changes since the config'] tbody tr")
    cells = [[tell(cell) for cell in row.locator("td").all()] for row in rows.all()]
    assert [(one[0].split(), one[1], one[3]) for one in cells] == [
        (["default", "alias"], "stands for thinker-7b instead of tiny", "yes"),
        (["fast", "alias"], "stands for tiny", "yes"),
        (["tiny", "model"], "added", "yes"),
        (["old", "model"], "taken away", "it is needed"),
    ]
    assert tell(page.locator("td:has-text('failed')")).split("\n")[-1] == "tiny.gguf: no such file or folder"


def test_keys(open_page: OpenPage, fake: FakeServer) -> None:
    page = open_page("/#/admin")
    page.wait_for_selector("text=There are no keys.")
    page.fill("form:has-text('New key') input >> nth=0", "Ada")
    page.fill("label:has-text('Tokens a minute') input", "5000")
    page.click("button:text-is('Create')")
    assert tell(page.locator(".verdict code")) == "sk-mohist-000000000000-secret"
    assert tell(page.locator("td:has-text('Tokens')")) == "Tokens a minute: 5,000"
    assert fake.keys[0]["limits"] == {
        "requests_per_minute": None,
        "tokens_per_minute": 5000,
        "concurrent_requests": None,
    }
    page.click("[aria-label='Limits of Ada']")
    form = page.locator("form:has-text('Limits of Ada')")
    assert form.locator("input").nth(0).evaluate("field => field === document.activeElement")
    assert form.locator("input").nth(1).input_value() == "5000"
    form.locator("label:has-text('Tokens a minute') input").fill("")
    form.locator("label:has-text('Requests at once') input").fill("3")
    form.locator("button:text-is('Save')").click()
    form.wait_for(state="detached")
    assert tell(page.locator("td:has-text('Requests at once')")) == "Requests at once: 3"
    limits = {"requests_per_minute": None, "tokens_per_minute": None, "concurrent_requests": 3}
    assert fake.keys[0]["limits"] == limits
    page.click("[aria-label='Revoke Ada']")
    page.wait_for_selector("td:text-is('revoked')")


@pytest.mark.parametrize(("by", "name"), [("model", "thinker-7b"), ("key", "this machine")])
def test_usage(open_page: OpenPage, by: str, name: str) -> None:
    page = open_page("/#/admin")
    page.select_option("label:has-text('By') select", by)
    row = page.locator("[aria-label=Usage] tbody tr")
    until(page, lambda: row.count() == 1 and tell(row).split("\t")[0] == name)
    assert tell(row).split("\t") == [name, "12", "3,400", "1,200", "5,600", "900", "CN¥0.01"]


def test_who_is_no_admin_is_told(open_page: OpenPage, fake: FakeServer) -> None:
    fake.admin = False
    page = open_page("/#/admin")
    assert tell(page.locator(".failure p").nth(1)) == "this needs the API key of an admin"
    page.click(".failure button")
    page.wait_for_selector("#api-key")

"""What the server sends for the page: every file, under a policy that lets nothing else in."""

from __future__ import annotations

import gzip
import hashlib
import re
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from mohist.serve import page
from mohist.serve.settings import LimitsConfig

WEB = Path(page.__file__).parent / "web"
OWN = sorted(path for path in WEB.rglob("*") if path.is_file() and "vendor" not in path.parts)
SCRIPTS = [path for path in OWN if path.suffix == ".js"]


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI()
    app.include_router(page.routes(LimitsConfig()))
    return TestClient(app)


def version(client: TestClient) -> str:
    (found,) = set(re.findall(r"/page/(\w+)/", client.get("/").text))
    return found


def test_the_first_file_is_small_and_asked_for_every_time(client: TestClient) -> None:
    reply = client.get("/")
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert reply.headers["cache-control"] == "no-cache"
    assert len(reply.content) < 2000
    again = client.get("/", headers={"If-None-Match": reply.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_the_first_file_says_how_large_files_may_be() -> None:
    replies = []
    for most in (1000, 2000):
        app = FastAPI()
        app.include_router(page.routes(LimitsConfig(max_body_bytes=7, max_pdf_bytes=most)))
        replies.append(TestClient(app).get("/"))
        assert f'<meta name="max-pdf-bytes" content="{most}" />' in replies[-1].text
        assert '<meta name="max-body-bytes" content="7" />' in replies[-1].text
    assert len({reply.headers["etag"] for reply in replies}) == 2, "a browser asks for the new one"


def test_the_policy_has_no_loophole(client: TestClient) -> None:
    policy = client.get("/").headers["content-security-policy"]
    assert "unsafe" not in policy
    sources = {part for directive in policy.split("; ") for part in directive.split(" ")[1:]}
    assert sources == {"'none'", "'self'", "'script'", "dompurify"}


def test_nothing_is_inline(client: TestClient) -> None:
    text = client.get("/").text
    assert re.findall(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", text) == []


def test_files_are_kept_for_ever_under_their_version(client: TestClient) -> None:
    reply = client.get(f"/page/{version(client)}/js/main.js")
    assert reply.headers["content-type"] == "text/javascript; charset=utf-8"
    assert "immutable" in reply.headers["cache-control"]
    assert reply.headers["content-encoding"] == "gzip"
    plain = client.get(f"/page/{version(client)}/js/main.js", headers={"Accept-Encoding": "identity"})
    assert plain.content == reply.content == (WEB / "js" / "main.js").read_bytes()
    assert "content-encoding" not in plain.headers


@pytest.mark.parametrize("path", ["js/none.js", "../page.py", "vendor/VENDORED", "index.html", ""])
def test_nothing_else_is_served(client: TestClient, path: str) -> None:
    assert client.get(f"/page/{version(client)}/{path}").status_code == 404


def test_another_version_is_not_there(client: TestClient) -> None:
    reply = client.get("/page/0123456789abcdef/js/main.js")
    assert reply.status_code == 404
    assert "load / again" in reply.json()["error"]["message"]


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_what_a_file_refers_to_is_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    relative = re.findall(r"""(?:from|import|import\(|URL\()\s*["'](\.[^"']+)["']""", text)
    absolute = re.findall(r"/page/\{version\}/([^\"]+)", text)
    for target in [path.parent / name for name in relative] + [WEB / name for name in absolute]:
        assert target.is_file(), target
    assert "://" not in text.replace("http://www.w3.org/2000/svg", "")


def test_every_module_is_used() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in OWN)
    unused = [path.name for path in OWN if path.name != "index.html" and f"/{path.name}" not in text]
    assert unused == []


def test_vendored_files_are_what_npm_delivered() -> None:
    vendor = WEB / "vendor"
    listed = dict(re.findall(r"^  (\w{64})  (\S+)$", (vendor / "VENDORED").read_text(), re.M))
    there = {
        hashlib.sha256(path.read_bytes()).hexdigest(): str(path.relative_to(vendor))
        for path in vendor.rglob("*")
        if path.is_file() and path.name != "VENDORED"
    }
    assert listed == there
    sizes = [len(gzip.compress(path.read_bytes())) for path in WEB.rglob("*.js")]
    assert sum(sizes) < 250_000


def words(language: str) -> dict[str, str]:
    text = (WEB / "js" / "i18n" / f"{language}.js").read_text(encoding="utf-8")
    return dict(re.findall(r'^  (\w+):\s+"(.*)",$', text, re.M))


def test_both_languages_say_the_same_things() -> None:
    english, chinese = words("en"), words("zh")
    plurals = {key for key in english if key.endswith("_one")}
    assert set(english) - plurals == set(chinese)
    for key, text in chinese.items():
        assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", english[key])), key


def test_every_word_that_is_used_exists() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in SCRIPTS)
    used = set(re.findall(r"""\bt\(\s*"(\w+)\"""", text))
    assert used <= set(words("en"))
    families = re.findall(r"\bt\(`(\w*)\$\{[^}]+\}(\w*)`", text)
    assert all(any(key.startswith(a) and key.endswith(b) for key in words("en")) for a, b in families)

from __future__ import annotations

import base64

import pytest

from mohist.errors import ConfigError
from mohist.serve.access import ANONYMOUS, Access, AccessError, Header, Principal, check_binding, is_loopback

ANN = Principal(key_id="1", name="Ann")
BOB = Principal(key_id="2", name="Bob")
KNOWN = {"sk-mohist-ann": ANN, "sk-mohist-bob": BOB}
WIDE = Access(principal=KNOWN.get, required=True)
LOOPBACK = Access(principal=KNOWN.get, required=False)


def headers(**values: str) -> list[Header]:
    return [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in values.items()]


def basic(password: str, user: str = "") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def refusal(access: Access, sent: list[Header]) -> AccessError:
    with pytest.raises(AccessError) as caught:
        access.check(sent)
    return caught.value


@pytest.mark.parametrize("access", [WIDE, LOOPBACK])
@pytest.mark.parametrize(
    "sent",
    [
        headers(authorization="Bearer sk-mohist-ann"),
        headers(authorization="bearer   sk-mohist-ann "),
        headers(x_api_key="sk-mohist-ann"),
        headers(x_api_key=" sk-mohist-ann "),
        headers(authorization=basic("sk-mohist-ann")),
        headers(authorization=basic("sk-mohist-ann", user="whoever")),
        headers(authorization="Bearer sk-mohist-ann", x_api_key="sk-mohist-ann"),
        headers(authorization="Bearer sk-mohist-ann", x_api_key=""),
        headers(authorization="Bearer sk-mohist-ann", host="chat.example", origin="https://other.example"),
    ],
)
def test_a_key_says_who_asks(access: Access, sent: list[Header]) -> None:
    assert access.check([(b"host", b"127.0.0.1"), *sent] if len(sent) < 3 else sent) == ANN


@pytest.mark.parametrize("access", [WIDE, LOOPBACK])
@pytest.mark.parametrize(
    "sent",
    [
        headers(authorization="Bearer sk-mohist-ann", x_api_key="sk-mohist-bob"),
        headers(authorization="Bearer sk-mohist-ann", x_api_key="sk-mohist-wrong"),
        headers(authorization="Bearer sk-mohist-wrong", x_api_key="sk-mohist-ann"),
        [*headers(authorization="Bearer sk-mohist-ann"), *headers(authorization="Bearer sk-mohist-bob")],
        [*headers(x_api_key="sk-mohist-ann"), *headers(x_api_key="sk-mohist-bob")],
    ],
)
def test_two_keys_are_none(access: Access, sent: list[Header]) -> None:
    error = refusal(access, sent)
    assert (error.status, str(error)) == (
        401,
        "different API keys in the headers of one request: send only one",
    )


@pytest.mark.parametrize(
    "sent",
    [
        [],
        headers(authorization=""),
        headers(authorization="Bearer"),
        headers(authorization="Bearer "),
        headers(authorization="sk-mohist-ann"),
        headers(authorization="Digest sk-mohist-ann"),
        headers(authorization="Basic %%%"),
        headers(authorization="Basic é"),
        headers(authorization=basic("sk-mohist-wrong")),
        headers(authorization="Bearer sk-mohist-wrong"),
        headers(x_api_key="sk-mohist-annn"),
        headers(api_key="sk-mohist-ann"),
    ],
)
def test_without_a_valid_key_there_is_no_way_in(sent: list[Header]) -> None:
    error = refusal(WIDE, sent)
    assert error.status == 401
    assert error.headers == [(b"www-authenticate", b"Bearer")]
    assert "sk-mohist" not in str(error), "errors repeat no keys"


def test_a_browser_is_asked_for_a_password() -> None:
    error = refusal(WIDE, headers(accept="text/html,application/xhtml+xml"))
    assert error.headers == [(b"www-authenticate", b'Basic realm="API key as password", charset="UTF-8"')]


def test_on_this_machine_no_key_is_asked_for_but_one_of_ours_must_be_valid() -> None:
    assert LOOPBACK.check(headers(host="localhost:8000")) == ANONYMOUS
    assert LOOPBACK.check(headers(host="localhost:8000", authorization="Bearer sk-none")) == ANONYMOUS
    assert refusal(LOOPBACK, headers(host="localhost", authorization="Bearer sk-mohist-wrong")).status == 401


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:80", "127.0.0.1:8000", "127.1.2.3", "[::1]:8000", "[::1]"]
)
def test_names_of_this_machine(host: str) -> None:
    assert LOOPBACK.check(headers(host=host, origin=f"http://{host}")) == ANONYMOUS


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example:80",
        "",
        "[",
        "0.0.0.0",
        "[::]",
        ":",
    ],
)
def test_a_name_that_a_page_could_point_here_is_refused(host: str) -> None:
    """A hostile page may let its own name resolve to 127.0.0.1; the browser then sends that name as Host."""
    assert refusal(LOOPBACK, headers(host=host)).status == 403
    assert refusal(LOOPBACK, [*headers(host="localhost"), *headers(host=host)]).status == 403


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:9999", "file://", ""])
def test_a_page_of_another_site_is_refused_where_the_browser_would_help_it(origin: str) -> None:
    assert refusal(LOOPBACK, headers(host="localhost:8000", origin=origin)).status == 403
    sent = headers(host="chat.example", origin=origin, authorization=basic("sk-mohist-ann"))
    assert refusal(WIDE, sent).status == 403
    assert (
        WIDE.check(headers(host="chat.example", origin=origin, authorization="Bearer sk-mohist-ann")) == ANN
    )


def test_the_page_itself_may_use_the_password_that_the_browser_keeps() -> None:
    sent = headers(host="chat.example", origin="https://chat.example", authorization=basic("sk-mohist-ann"))
    assert WIDE.check(sent) == ANN


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.8.8"])
def test_loopback_needs_no_keys(host: str) -> None:
    assert is_loopback(host)
    assert check_binding(host, 0) is False
    assert check_binding(host, 3) is False
    assert check_binding(host, 3, require_keys=True) is True
    with pytest.raises(ConfigError, match="require_keys = true, and there are no API keys: make one with"):
        check_binding(host, 0, require_keys=True)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com", "", "localhost.example.com"])
def test_wider_needs_keys(host: str) -> None:
    assert not is_loopback(host)
    assert check_binding(host, 1) is True
    with pytest.raises(
        ConfigError, match=r"make one with `mohist keys create NAME --role admin`, or bind 127\.0"
    ):
        check_binding(host, 0)
    with pytest.raises(ConfigError, match="a server that others can reach asks for keys"):
        check_binding(host, 1, require_keys=False)

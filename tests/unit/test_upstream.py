"""Which upstream proxy the option and the environment name, for which hosts, and that no message holds its login."""

from __future__ import annotations

import pytest

from outpass import upstream
from outpass.errors import StartError
from outpass.upstream import Upstream


def found(url: str | None = None, **env: str) -> Upstream:
    made = upstream.chosen(url, env)
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://proxy.corp:3128", "http://proxy.corp:3128"),
        ("proxy.corp:3128", "http://proxy.corp:3128"),
        ("http://Proxy.CORP/", "http://proxy.corp:80"),
        ("https://proxy.corp", "https://proxy.corp:443"),
        ("socks5://10.0.0.1", "socks5://10.0.0.1:1080"),
        ("socks5h://[fd00::1]:1081", "socks5://[fd00::1]:1081"),
    ],
)
def test_proxies_as_people_write_them(url: str, shown: str) -> None:
    assert found(url).shown == shown


def test_the_login_is_decoded_and_shown_nowhere() -> None:
    made = found("http://ada:p%40ss%3Aw%C3%B6rd@proxy.corp:3128")
    assert (made.user, made.password) == ("ada", "p@ss:wörd")
    assert made.shown == "http://proxy.corp:3128"
    assert upstream.of_message(made.message()) == made


@pytest.mark.parametrize(
    "url",
    [
        "socks4://ada:secret@proxy.corp",
        "http://ada:secret@",
        "http://ada:secret@proxy.corp:99999",
        "http://ada:secret@proxy.corp/path",
        "http://ada:secret@pro xy",
        "http://ada:" + "secret" * 50 + "@proxy.corp",
        "http://ada%3Ab:secret@proxy.corp",
    ],
)
def test_a_proxy_that_makes_no_sense_is_an_error_and_no_direct_connection(url: str) -> None:
    with pytest.raises(StartError) as caught:
        upstream.chosen(None, {"HTTPS_PROXY": url})
    said = f"{caught.value.message} {caught.value.hint}"
    assert "$HTTPS_PROXY" in said and "secret" not in said and "ada" not in said


def test_the_option_beats_the_environment_and_none_is_direct() -> None:
    env = {"https_proxy": "http://env.corp:1"}
    assert found("http://option.corp:1", **env).host == "option.corp"
    assert found(None, OUTPASS_UPSTREAM_PROXY="http://own.corp:1", **env).source == "$OUTPASS_UPSTREAM_PROXY"
    assert upstream.chosen("none", env) is None
    assert upstream.chosen(None, {"OUTPASS_UPSTREAM_PROXY": "none", **env}) is None
    assert upstream.chosen(None, {}) is None


def test_which_variable_counts() -> None:
    every = {"HTTPS_PROXY": "http://https:1", "ALL_PROXY": "http://all:1", "HTTP_PROXY": "http://http:1"}
    assert found(None, **every).host == "https"
    assert found(None, **every, https_proxy="http://lower:1").host == "lower"
    del every["HTTPS_PROXY"]
    assert found(None, **every).host == "all"
    del every["ALL_PROXY"]
    assert found(None, **every).host == "http"
    assert upstream.chosen(None, {**every, "REQUEST_METHOD": "GET"}) is None, "httpoxy"
    for url in (
        "http://127.0.0.1:3128",
        f"http://outpass:{'x' * 400}@127.0.0.1:3128/",
    ):  # as a program is told it, with a spawn pass
        assert upstream.chosen(None, {"HTTPS_PROXY": url, "OUTPASS_PROXY": "127.0.0.1:3128"}) is None


@pytest.mark.parametrize(
    ("exempt", "host", "port", "through"),
    [
        ("", "api.test", 443, True),
        ("", "localhost", 80, False),
        ("", "a.localhost", 80, False),
        ("", "127.0.0.2", 80, False),
        ("", "::1", 80, False),
        ("", "host.outpass.internal", 80, False),
        ("corp.test", "corp.test", 443, False),
        ("corp.test", "a.corp.test", 443, False),
        (".corp.test", "a.corp.test", 443, False),
        ("*.corp.test", "a.corp.test", 443, False),
        ("CORP.test", "a.corp.test", 443, False),
        ("corp.test", "evilcorp.test", 443, True),
        ("a.test, corp.test", "corp.test", 443, False),
        ("corp.test:8080", "corp.test", 8080, False),
        ("corp.test:8080", "corp.test", 443, True),
        ("10.0.0.0/8", "10.1.2.3", 443, False),
        ("10.0.0.0/8", "11.1.2.3", 443, True),
        ("10.1.2.3", "10.1.2.3", 443, False),
        ("10.0.0.0/8", "10.test", 443, True),
        ("fd00::/8", "fd00::5", 443, False),
        ("[fd00::5]:443", "fd00::5", 443, False),
        ("[fd00::5]:443", "fd00::5", 80, True),
        (".", "api.test", 443, True),
    ],
)
def test_no_proxy(exempt: str, host: str, port: int, through: bool) -> None:
    assert found("http://proxy.corp:1", NO_PROXY=exempt).carries(host, port) is through


def test_a_star_in_no_proxy_is_no_proxy_at_all() -> None:
    assert upstream.chosen(None, {"HTTPS_PROXY": "http://proxy.corp:1", "no_proxy": "*"}) is None

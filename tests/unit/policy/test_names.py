"""One spelling for each name, host, path and authority; every other is put into it or refused."""

from __future__ import annotations

import pytest

from outpass.policy import names


@pytest.mark.parametrize(
    "text, normal",
    [
        ("stripe", "stripe"),
        ("Zope.Interface", "zope-interface"),
        ("a__b--c..d", "a-b-c-d"),
        ("pkg:pypi/Typing_Extensions", "typing-extensions"),
        ("pkg:pypi/app", "pkg:pypi/app"),
        ("pkg:pypi/Unattributed", "pkg:pypi/unattributed"),
        ("pkg:npm/left-pad", "pkg:npm/left-pad"),
        ("pkg:npm/@scope/name", "pkg:npm/@scope/name"),
        ("pkg:npm/%40scope/name", "pkg:npm/@scope/name"),
        ("exe:git-remote-http", "exe:git-remote-http"),
        ("app", "app"),
        ("*", "*"),
        ("unattributed", "unattributed"),
    ],
)
def test_packages_have_one_name(text: str, normal: str) -> None:
    assert names.package(text) == normal
    assert names.package(normal) == normal


@pytest.mark.parametrize(
    "text", ["", "?", "!x", "-a", "a b", "a/b", "pkg:gem/x", "exe:", "exe:../x", "pkg:npm/../x", "a\n", "é", "a>b"]
)
def test_what_is_no_package_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^['\"]"):
        names.package(text)


def test_a_published_package_cannot_be_the_application() -> None:
    """PyPI has room for a distribution called `app`; its chain entry must not be the application's."""
    assert names.distribution("App") == "pkg:pypi/app"
    assert names.distribution("unattributed") == "pkg:pypi/unattributed"
    assert names.distribution("Flask_App") == "flask-app"


def test_chains_hold_two_names_that_nobody_can_be_given() -> None:
    assert names.principal("?") == "?"
    assert names.principal("!Stripe") == "!stripe"
    assert names.principal("!app") == "!app"


@pytest.mark.parametrize(
    "name, version, url",
    [
        ("stripe", "11.4.0", "pkg:pypi/stripe@11.4.0"),
        ("stripe", None, "pkg:pypi/stripe"),
        ("pkg:pypi/app", "1", "pkg:pypi/app@1"),
        ("pkg:npm/@scope/x", "1", "pkg:npm/%40scope/x@1"),
        ("app", None, "pkg:generic/app"),
        ("unattributed", None, "pkg:generic/unattributed"),
        ("?", None, "pkg:generic/unknown"),
        ("!stripe", None, "pkg:generic/unproven"),
        ("exe:curl", None, "exe:curl"),
    ],
)
def test_package_urls(name: str, version: str | None, url: str) -> None:
    assert names.purl(name, version) == url


@pytest.mark.parametrize(
    "text, canonical",
    [
        ("api.stripe.com", "api.stripe.com"),
        ("API.Stripe.COM.", "api.stripe.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("a。b", "a.b"),
        ("exa\u00admple.com", "example.com"),
        ("_dmarc.example.com", "_dmarc.example.com"),
        ("db", "db"),
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1.", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("0177.0.0.01", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0x7F000001", "127.0.0.1"),
        ("017700000001", "127.0.0.1"),
        ("1.2.65535", "1.2.255.255"),
        ("0", "0.0.0.0"),
        ("１２７.0.0.1", "127.0.0.1"),
        ("①②⑦.⓪.0.1", "127.0.0.1"),
        ("[::1]", "::1"),
        ("::1", "::1"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("[::FFFF:7f00:1]", "127.0.0.1"),
    ],
)
def test_hosts_have_one_form(text: str, canonical: str) -> None:
    assert names.host(text) == canonical
    assert names.host(canonical) == canonical


@pytest.mark.parametrize(
    "text, message",
    [
        ("a_b.ß.test", "not a valid internationalised host"),  # yarl: a_b.ss.test, by the older standard
        ("xn--a.ß.test", "not a valid internationalised host"),
        ("", "empty"),
        (".", "empty"),
        ("a..b", "write 'a.b'"),
        (".a", "write 'a'"),
        ("a.b..", "empty label"),
        ("1.2.3.4.5", "5 parts"),
        ("256.1.1.1", "too large"),
        ("1.2.3.256", "too large"),
        ("4294967296", "too large"),
        ("08.0.0.1", "octal"),
        ("1..2", "not an IPv4 address"),
        ("example.1", "not an IPv4 address"),
        ("example.0x1", "not an IPv4 address"),
        ("[127.0.0.1]", "brackets"),
        ("[::1", "brackets"),
        ("::1]", "brackets"),
        ("[[::1]]", "brackets"),
        ("::g", "not an IPv6 address"),
        ("fe80::1%eth0", "zone id"),
        ("%31.example", "percent"),
        ("-a.example", "valid label"),
        ("a-.example", "valid label"),
        ("*.example", "valid label"),
        ("a b", "valid label"),
        ("a\x00b", "valid label"),
        ("a\n", "valid label"),
        ("a/b", "valid label"),
        ("a@b", "valid label"),
        ("x" * 64 + ".example", "valid label"),
        (".".join(["x" * 60] * 5), "not a host"),
        ("\ud800.example", "internationalised"),
        ("0" * 1024 + "1", "too long"),
        ("\u00ad" * 1024 + "a.example", "too long"),
        ("a\u200d.example", "internationalised"),
    ],
)
def test_what_is_no_host_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        names.host(text)


@pytest.mark.parametrize(
    "raw, normal",
    [
        ("/", "/"),
        ("/v1/charges", "/v1/charges"),
        ("/%63harges", "/charges"),
        ("/%7euser", "/~user"),
        ("/@scope%2fname", "/@scope%2Fname"),
        ("/a%20b", "/a%20b"),
        ("/é", "/%C3%A9"),
        ("/%c3%a9", "/%C3%A9"),
        ('/{"x"}', "/%7B%22x%22%7D"),
        ("/.well-known/x", "/.well-known/x"),
        ("/a/...", "/a/..."),
        ("/a.b/..c", "/a.b/..c"),
        ("//a//", "//a//"),
        ("/%252ea/x", "/%252ea/x"),
        ("/%C0%B4/%c0%af", "/%C0%B4/%C0%AF"),
    ],
)
def test_paths_have_one_form(raw: str, normal: str) -> None:
    assert names.path(raw) == normal
    assert names.path(normal) == normal


@pytest.mark.parametrize(
    "raw, message",
    [
        ("", "start with a slash"),
        ("a", "start with a slash"),
        ("*", "start with a slash"),
        ("/..", "dot segment"),
        ("/.", "dot segment"),
        ("/a/../b", "dot segment"),
        ("/a/%2e%2e/b", "dot segment"),
        ("/a/.%2E", "dot segment"),
        ("/a%2f..%2fb", "dot segment"),
        ("/a/..;v=1/b", "dot segment"),
        ("/%252e%252e/x", "dot segment"),
        ("/a%252f..%252fb", "dot segment"),
        ("/a%255c..%255cb", "dot segment"),
        ("/%c0%ae./x", "dot segment"),
        ("/..%c0%af", "dot segment"),
        ("/%e0%80%ae%f0%80%80%ae;x/a", "dot segment"),
        ("/..%c1%9cx", "dot segment"),
        ("/a\\b", "backslash"),
        ("/a%5cb", "backslash"),
        ("/a b", "space"),
        ("/a\tb", "control"),
        ("/a\x7fb", "control"),
        ("/a%0d%0ab", "control"),
        ("/a%00", "control"),
        ("/a%", "percent"),
        ("/a%4", "percent"),
        ("/a%zz", "percent"),
        ("/\udc80", "not valid text"),
    ],
)
def test_what_is_no_path_is_refused(raw: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        names.path(raw)


@pytest.mark.parametrize(
    "url, target",
    [
        ("https://api.stripe.com", ("https", "api.stripe.com", 443, "/", "")),
        ("HTTP://Example.com:8080/a%2Fb?x=1&y#frag", ("http", "example.com", 8080, "/a%2Fb", "x=1&y")),
        ("https://[::1]:8443/?q", ("https", "::1", 8443, "/", "q")),
        ("https://0x7f.1/", ("https", "127.0.0.1", 443, "/", "")),
        ("https://example.com?x", ("https", "example.com", 443, "/", "x")),
    ],
)
def test_urls_are_taken_apart(url: str, target: tuple[str, str, int, str, str]) -> None:
    assert names.parse_url(url) == target


@pytest.mark.parametrize(
    "url, message",
    [
        ("api.stripe.com", "not an http or https URL"),
        ("ftp://x/", "not an http or https URL"),
        ("https://user:pw@x/", "user name or password"),
        ("https://x@y/", "user name or password"),
        ("https://evil.example\\@good.example/", "backslash"),
        ("https://x/ y", "space"),
        ("https://x\n/", "control"),
        ("https:///path", "empty"),
        ("https://x:0/", "not a port"),
        ("https://x:65536/", "not a port"),
        ("https://x:/", "not a port"),
        ("https://x:+443/", "not a port"),
        ("https://::1/", "brackets"),
    ],
)
def test_what_is_no_url_is_refused(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        names.parse_url(url)


@pytest.mark.parametrize(
    "text, default, pair",
    [
        ("example.com:8443", None, ("example.com", 8443)),
        ("example.com", 443, ("example.com", 443)),
        ("[::1]:22", None, ("::1", 22)),
        ("[::1]", 80, ("::1", 80)),
        ("127.1:80", None, ("127.0.0.1", 80)),
    ],
)
def test_authorities(text: str, default: int | None, pair: tuple[str, int]) -> None:
    assert names.authority(text, default) == pair
    assert names.authority(names.format_authority(*pair), None) == pair


@pytest.mark.parametrize("text", ["example.com", "::1:22", "[::1]x", "a@b:1", "x:y", "x:-1", "x: 1", "x:１", "[::1]:", ":443"])
def test_what_is_no_authority_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        names.authority(text, None)

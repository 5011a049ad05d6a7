"""Patterns as people write them: what each means, and for each that is refused the corrected text."""

from __future__ import annotations

import pytest

from outpass.policy import pattern
from outpass.policy.rules import Rule


@pytest.mark.parametrize(
    "key, text, shown",
    [
        ("http", "https://api.stripe.com", "https://api.stripe.com/**"),
        ("http", "HTTPS://API.Stripe.com:443/v1/", "https://api.stripe.com/v1/**"),
        ("http", "GET,POST  https://a.example/x", "GET,POST https://a.example/x"),
        ("http", "PROPFIND https://a.example/x", "PROPFIND https://a.example/x"),
        ("http", "http://a.example:8080/a*/**/b", "http://a.example:8080/a*/**/b"),
        ("http", "https://a.example/x/**/**/", "https://a.example/x/**"),
        ("http", "https://a.example/%63", "https://a.example/c"),
        ("http", "https://*.a.example/", "https://*.a.example/**"),
        ("http", "https://**.Bücher.example/", "https://**.xn--bcher-kva.example/**"),
        ("http", "https://[::1]/", "https://[::1]/**"),
        ("http", "http://127.1/", "http://127.0.0.1/**"),
        ("socket", "db.internal:5432", "db.internal:5432"),
        ("socket", "10.0.0.0/8:5432-5440", "10.0.0.0/8:5432-5440"),
        ("socket", "[fc00::/7]:22", "[fc00::/7]:22"),
        ("socket", "udp://stats.example:8125", "udp://stats.example:8125"),
        ("socket", "db.internal:*", "db.internal:1-65535"),
        ("dns", "**.cluster.local", "**.cluster.local"),
        ("listen", "8000", "8000"),
        ("listen", "127.0.0.1:8000-8010", "127.0.0.1:8000-8010"),
        ("listen", "[::1]:8000", "[::1]:8000"),
    ],
)
def test_patterns_have_one_form(key: str, text: str, shown: str) -> None:
    parsed = pattern.PARSERS[key](text)
    rule = Rule("p.yaml", 1, *parsed)
    assert rule.text == shown
    assert pattern.PARSERS[key](rule.text) == parsed


@pytest.mark.parametrize(
    "key, text, message, hint",
    [
        ("http", "api.stripe.com/v1", "no scheme", "write https://api.stripe.com/v1"),
        ("http", "//api.stripe.com", "no scheme", "write https://api.stripe.com"),
        ("http", "ftp://a.example/", "scheme is 'ftp'", "only http and https"),
        ("http", "get https://a.example/", "exact case", "write GET"),
        ("http", "GET,post https://a.example/", "exact case", "write POST"),
        ("http", "https://u:p@a.example/x", "user name or password", "write https://a.example/x"),
        ("http", "https://a.example/x?y=1", "queries are not matched", "write https://a.example/x"),
        ("http", "https://a.example/#x", "fragments are not matched", "write https://a.example/"),
        ("http", "https://*/", "left end", "leave the whole list out"),
        ("http", "https://*a.example/", "left end", "write *.a.example"),
        ("http", "https://a.*.example.com/", "left end", "write *.example.com"),
        ("http", "https://*.*.example.com/", "left end", "write *.example.com"),
        ("http", "https://*.10.0.0.1/", "takes no wildcard", "networks"),
        ("http", "https://A..example/", "empty label", "write a.example"),
        ("http", "https://a.example:99999/", "not a port", ""),
        ("http", "https://::1/", "needs brackets", "write [::1]"),
        ("http", "https://a.example/x**", "whole segment", "write /x*"),
        ("http", "https://a.example/../x", "dot segment", ""),
        ("http", "https://a.example/x%", "percent", ""),
        ("http", "https://a b/", "space", ""),
        ("http", "", "no scheme", ""),
        ("socket", "db.internal", "no port", "db.internal:PORT"),
        ("socket", "::1:22", "needs brackets", "[ADDRESS]:PORT"),
        ("socket", "10.0.0.1/8:22", "host bits", "write 10.0.0.0/8:22"),
        ("socket", "x:9-1", "backwards", "write 1-9"),
        ("socket", "https://a.example/", "tcp or udp", "write a.example"),
        ("dns", "a.example:53", "is a name", "write the name alone"),
        ("dns", "10.0.0.1", "not an address", ""),
        ("listen", "localhost:8000", "takes an address", "write the port alone"),
        ("listen", "0", "not a port", ""),
    ],
)
def test_refused_patterns_come_with_the_right_one(key: str, text: str, message: str, hint: str) -> None:
    with pytest.raises(pattern.PatternError, match=message) as caught:
        pattern.PARSERS[key](text)
    assert hint in caught.value.hint

"""Which upstream proxy `outpass explain` names: the one that `outpass run` would dial through, or none."""

from __future__ import annotations

import pytest

from outpass.cli.explain import proxy_of, request_of
from outpass.errors import StartError

PROXY = {"https_proxy": "http://proxy.corp:3128"}


@pytest.mark.parametrize(
    ("sentence", "url", "env", "named"),
    [
        ("the environment has one", "https://api.example.com/v1", PROXY, True),
        ("for plain HTTP too", "http://api.example.com/v1", PROXY, True),
        ("for raw TCP too", "tcp://db.example.com:5432", PROXY, True),
        ("there is none", "https://api.example.com/v1", {}, False),
        ("NO_PROXY names the host", "https://api.example.com/v1", {**PROXY, "NO_PROXY": "example.com"}, False),
        ("there is no name to resolve", "https://203.0.113.7/v1", PROXY, False),
        ("a query of its own is asked of the resolver", "dns://db.example.com", PROXY, False),
        ("listening leads nowhere", "listen://127.0.0.1:8000", PROXY, False),
        (
            "it is the gate of the jail around us",
            "https://api.example.com/v1",
            {**PROXY, "OUTPASS_PROXY": "proxy.corp:3128"},
            False,
        ),
        (
            "an operator's daemon has an environment of its own",
            "https://api.example.com/v1",
            {**PROXY, "OUTPASS_SOCKET": "/s"},
            False,
        ),
    ],
)
def test_the_proxy_that_would_resolve_the_name(sentence: str, url: str, env: dict[str, str], named: bool) -> None:
    found = proxy_of(request_of("stripe", (url,)), env)
    assert (found is not None) == named, sentence
    assert found is None or (found.shown, found.source) == ("http://proxy.corp:3128", "$HTTPS_PROXY"), sentence


def test_a_proxy_that_run_would_refuse_is_an_error_here_as_well() -> None:
    with pytest.raises(StartError, match="scheme 'ftp' is not supported"):
        proxy_of(request_of("stripe", ("https://api.example.com/",)), {"HTTPS_PROXY": "ftp://proxy.corp"})

"""Network libraries that no proxy variable can be counted on for: each works, charged to whoever uses it, or nothing arrives.

Lives here: one jailed run of every row of support/stacks.py, and what the origins saw. May not live here: SDKs (test_real_clients.py).
"""

from __future__ import annotations

import os

import pytest

from tests.support.jailed import impossible
from tests.support.stack_runs import Ran, run_rows
from tests.support.stacks import STACKS

PROXIED = {
    "aiohttp with trust_env",
    "websockets",
    "websockets with threads",
    "websocket-client",
    "pycurl",
    "pycurl's CurlMulti",
    "pycurl with certifi's roots",
    "curl_cffi",
    "async curl_cffi",
    "aiohttp with trust_env, without TLS",
    "pycurl, without TLS",
    "grpc",
    "grpc.aio",
    "httpx on trio",
    "a greenlet",
}
ROUND = {
    "aiohttp, which goes round the proxy",
    "requests without the environment",
    "httpx without the environment",
    "websockets without a proxy",
    "asyncio's streams",
    "aiohttp on uvloop",
    "gevent's own sockets",
}
"""Rows that use the proxy of the environment, and that do not; the others are more of the same."""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    if why := impossible(os.getuid()):
        pytest.skip(f"no jail is possible here: {why}")
    return run_rows(tmp_path_factory.mktemp("stacks"), STACKS)


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return run_rows(tmp_path_factory.mktemp("outside"), [s for s in STACKS if s.name in PROXIED | ROUND], jail=False)


@pytest.mark.parametrize("number", range(len(STACKS)), ids=lambda n: STACKS[n].name)
def test_each_user_of_one_session_is_charged_for_its_own_requests(number: int, ran: Ran) -> None:
    """The application has the grant and evil has none: evil is answered 403, or told so where its connection would be new."""
    got = ran.answers.get(STACKS[number].name)
    assert isinstance(got, list) and got[0] == 200, f"{got}\n{ran.run.said()}"
    assert got[1] == 403 or "evil@6.6.6 may not reach http" in str(got[1]), f"{got}\n{ran.run.said()}"
    mine = [path for path in ran.seen if path.startswith(f"/{number}/")]
    assert mine == [f"/{number}/app"], f"{mine}\n{ran.run.said()}"


def test_every_denial_names_the_package_and_no_pass_reaches_an_origin(ran: Ran) -> None:
    decided = [r for r in ran.run.records if r["kind"] == "decision" and r["scheme"] != "dns"]
    assert {(r["verdict"], r["reason"], tuple(r["chain"])) for r in decided} == {
        ("allow", "allowed", ("app",)),
        ("deny", "no_rule", ("evil@6.6.6", "app")),
    }, ran.run.said()
    assert len(ran.seen) == len(STACKS)
    assert not {"outpass-token", "proxy-authorization"} & ran.headers


@pytest.mark.parametrize("name", sorted(PROXIED))
def test_without_a_jail_what_uses_the_proxy_works_in_the_same_way(name: str, outside: Ran) -> None:
    assert outside.answers.get(name) == [200, 403], f"{outside.answers.get(name)}\n{outside.run.said()}"


@pytest.mark.parametrize("name", sorted(ROUND))
def test_without_a_jail_what_goes_round_the_proxy_is_told_what_to_do(name: str, outside: Ran) -> None:
    said = str(outside.answers.get(name))
    assert "app may use HTTP with" in said and "only through the gate" in said and "trust_env" in said, outside.run.said()
    assert len(outside.seen) == len(PROXIED), "nothing else has arrived"

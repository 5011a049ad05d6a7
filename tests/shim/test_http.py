"""http.client's choke point: where the pass goes, what is asked for, and who gets none.

Lives here: requests of the standard library through a real proxy. May not live here: chains (test_chain.py).
"""

from __future__ import annotations

import sys

import pytest

from tests.shim.rig import SILENCE, World

TUNNEL = """
import http.client, os
host, port = os.environ["OUTPASS_PROXY"].split(":")
def tunnel(place, n=1, cls=http.client.HTTPConnection):
    c = cls(host, int(port))
    c.set_tunnel(place, headers={"Proxy-Authorization": "Basic eDp5"})
    for _ in range(n):
        c.request("GET", "/x")
        assert c.getresponse().read() == b"ok"
"""


def test_a_request_in_absolute_form_carries_one_pass_for_the_authority_of_its_url(world: World) -> None:
    world.run("import urllib.request; urllib.request.urlopen('http://api.example.com:8080/a?b://c').read()")
    (head,) = world.proxy.heads
    assert head.line == "GET http://api.example.com:8080/a?b://c HTTP/1.1"
    assert head["proxy-authorization"] == ["Bearer pass-1"]
    assert "outpass-token" not in head
    (mint,) = world.broker.of("mint")
    assert (mint["use"], mint["cap"], mint["dst"], mint["tls"]) == ("request", "network:http", "api.example.com:8080", False)
    assert mint["chain"] == ["app"]


def test_connect_and_each_request_inside_carry_their_own_pass_and_foreign_proxy_credentials_are_dropped(world: World) -> None:
    world.run(TUNNEL + "tunnel('api.example.com:80', 2)")
    connect, first, second = world.proxy.heads
    assert connect["proxy-authorization"] == ["Bearer pass-1"]
    assert [first["outpass-token"], second["outpass-token"]] == [["pass-2"], ["pass-3"]]
    assert "proxy-authorization" not in first
    assert [(m["use"], m["dst"], m["tls"]) for m in world.broker.of("mint")] == [
        ("connect", "api.example.com:80", False),
        ("request", "api.example.com:80", False),
        ("request", "api.example.com:80", False),
    ]


def test_inside_an_opaque_tunnel_no_pass_is_minted_or_shown(world: World) -> None:
    world.broker.answers = lambda m: {"pass": "p", "tunnel": "opaque"} if m.get("use") == "connect" else None
    world.run(TUNNEL + "tunnel('db.example.com:80')")
    assert "outpass-token" not in world.proxy.heads[1]
    assert [m["use"] for m in world.broker.of("mint")] == ["connect"]


def test_a_pass_is_minted_after_the_connection_stands(world: World) -> None:
    """The gate saw CONNECT before the broker was asked for the request inside: 30 s are not spent on connecting."""
    seen: list[int] = []

    def answer(message: dict) -> None:  # type: ignore[type-arg]
        if message.get("use") == "request":
            seen.append(len(world.proxy.heads))

    world.broker.answers = answer
    world.run(TUNNEL + "tunnel('api.example.com:80')")
    assert seen == [1]


@pytest.mark.parametrize(
    "place, wanted",
    [("[2001:db8::1]:443", "[2001:db8::1]:443"), ("Bücher.example:443", "xn--bcher-kva.example:443")],
    ids=["an ipv6 literal keeps its brackets", "a unicode name is asked for as its a-labels"],
)
def test_destinations_are_asked_for_as_they_go_over_the_wire(world: World, place: str, wanted: str) -> None:
    world.run(TUNNEL + f"try: tunnel({place!r})\nexcept UnicodeError: pass\nexcept OSError: pass", check=False)
    # Before 3.12 http.client refuses such a name by itself, before anything is asked.
    asked = [m["dst"] for m in world.broker.of("mint")][:1]
    assert asked == [wanted] or (asked == [] and sys.version_info < (3, 12) and not place.isascii())


def test_a_request_to_loopback_or_to_another_proxy_gets_no_pass_and_none_is_asked_for(world: World) -> None:
    world.run(
        """
        import http.client, os, socket, threading
        s = socket.create_server(("127.0.0.1", 0))
        got = []
        def serve():
            c, _ = s.accept()
            got.append(c.recv(9999)); c.sendall(b"HTTP/1.1 200 ok\\r\\nContent-Length: 0\\r\\n\\r\\n"); c.close()
        for target in ("/x", "http://api.example.com/x"):
            t = threading.Thread(target=serve); t.start()
            c = http.client.HTTPConnection("127.0.0.1", s.getsockname()[1]); c.request("GET", target); c.getresponse(); t.join()
        assert b"pass" not in b"".join(got).lower() and b"authorization" not in b"".join(got).lower(), got
        """
    )
    assert world.broker.of("mint") == []


def test_a_denial_pass_is_attached_like_any_other(world: World) -> None:
    world.broker.answers = lambda m: {"pass": "no", "tunnel": "http", "deny": "no_rule"} if m["op"] == "mint" else None
    world.run("import urllib.request; urllib.request.urlopen('http://api.example.com/').read()")
    assert world.proxy.heads[0]["proxy-authorization"] == ["Bearer no"]


@pytest.mark.parametrize(
    "answer, hint",
    [
        (
            {"error": "not_registered", "say": "start it with outpass run"},
            "outpass: error: this process has no session: start it",
        ),
        ([], "outpass: error: this process has no session"),
        (
            {"v": 1, "sid": "s", "map": "/nowhere"},
            "outpass: error: this process has no session: the broker's hello cannot be used",
        ),
    ],
    ids=["a refused hello", "an answer that is no object", "a map that cannot be read"],
)
def test_without_a_session_requests_go_to_the_gate_without_a_pass_and_it_is_said_once(
    world: World, answer: dict[str, object], hint: str
) -> None:
    world.broker.answers = lambda m: answer if answer else {"error": "x"}  # type: ignore[return-value]
    done = world.run("import urllib.request as u\nfor _ in range(3): u.urlopen('http://api.example.com/').read()")
    assert [("proxy-authorization" in h) for h in world.proxy.heads] == [False] * 3
    assert done.stderr.count(hint) == 1
    assert len(world.broker.got) == 1


def test_with_a_broker_that_is_gone_requests_go_to_the_gate_without_a_pass_and_it_is_said_once(world: World) -> None:
    world.broker.close()
    done = world.run("import urllib.request as u\nfor _ in range(3): u.urlopen('http://api.example.com/').read()")
    assert [("proxy-authorization" in h) for h in world.proxy.heads] == [False] * 3
    assert done.stderr.count("outpass: error: this process has no session: the broker is gone") == 1
    assert "Traceback" not in done.stderr


def test_a_broker_that_does_not_answer_is_waited_for_once(world: World) -> None:
    world.broker.answers = lambda m: SILENCE if m["op"] == "mint" else None
    done = world.run(
        """
        import outpass_shim._wire, urllib.request as u
        outpass_shim._wire.DEADLINE_S = 0.3
        for _ in range(3): u.urlopen('http://api.example.com/').read()
        """
    )
    assert [("proxy-authorization" in h) for h in world.proxy.heads] == [False] * 3
    assert done.stderr.count("outpass: hint: the broker gives no pass (it did not answer") == 1
    assert len(world.broker.of("mint")) == 1


def test_a_broker_that_goes_away_between_two_requests_costs_the_second_its_pass_only(world: World) -> None:
    world.broker.answers = lambda m: world.broker.close() if len(world.broker.of("mint")) == 2 else None  # type: ignore[func-returns-value]
    done = world.run("import urllib.request as u\nfor _ in range(3): u.urlopen('http://api.example.com/').read()")
    assert [("proxy-authorization" in h) for h in world.proxy.heads] == [True, False, False]
    assert done.stderr.count("outpass: hint: the broker gives no pass") >= 1

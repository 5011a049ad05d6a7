"""h11 and h2: a client's requests get passes, a server's use of the same classes is untouched.

Lives here: the two libraries driven directly, as httpcore drives them, in a program under the shim; skipped where they are not
installed. May not live here: httpx itself (tests/e2e).
"""

from __future__ import annotations

import os

import pytest

from tests.shim.rig import World

h11 = pytest.importorskip("h11")
BASE = os.path.dirname(os.path.dirname(h11.__file__))

DRIVER = """
import os, sys
sys.path.append(os.environ["LIBRARIES"])
import h11
def connect(place, **headers):
    c = h11.Connection(our_role=h11.CLIENT)
    return c.send(h11.Request(method="CONNECT", target=place, headers=[("Host", place), *headers.items()]))
def get(c, target="/x", host="api.example.com"):
    return c.send(h11.Request(method="GET", target=target, headers=[("Host", host), ("X-Case", "Kept")]))
def new():
    return h11.Connection(our_role=h11.CLIENT)
def again(c):
    c.send(h11.EndOfMessage()); c.receive_data(b"HTTP/1.1 200 ok\\r\\nContent-Length: 0\\r\\n\\r\\n")
    while type(c.next_event()) is not h11.EndOfMessage: pass
    c.start_next_cycle()
"""


def run(world: World, source: str) -> str:
    world.env["LIBRARIES"] = BASE
    return world.run(DRIVER + source).stdout


def test_connect_gets_a_bearer_pass_and_replaces_a_foreign_one(world: World) -> None:
    out = run(world, "print(connect('api.example.com:443', **{'Proxy-Authorization': 'Basic eDp5'}))")
    assert "Proxy-Authorization: Bearer pass-1\\r\\n" in out
    assert "Basic" not in out
    (mint,) = world.broker.of("mint")
    assert (mint["use"], mint["dst"], mint["tls"]) == ("connect", "api.example.com:443", True)


def test_every_request_inside_gets_its_own_pass_and_keeps_its_headers(world: World) -> None:
    out = run(world, "connect('api.example.com:443'); c = new(); print(get(c)); again(c); print(get(c))")
    first, second = out.strip().split("\n")
    assert first.count("Outpass-Token: pass-2") == second.count("Outpass-Token: pass-3") == 1
    assert "X-Case: Kept" in first
    assert [m["dst"] for m in world.broker.of("mint")] == ["api.example.com:443"] * 3


def test_the_event_of_the_caller_is_not_changed(world: World) -> None:
    run(
        world,
        """
connect('api.example.com:443')
e = h11.Request(method="GET", target="/", headers=[("Host", "api.example.com")])
new().send(event=e)
assert [bytes(n) for n, _ in e.headers] == [b"host"]
""",
    )


def test_absolute_form_gets_a_bearer_pass_for_its_own_authority(world: World) -> None:
    out = run(world, "print(get(new(), target='http://api.example.com:8080/x'))")
    assert "Proxy-Authorization: Bearer pass-1" in out
    assert world.broker.of("mint")[0]["dst"] == "api.example.com:8080"


@pytest.mark.parametrize(
    "source",
    [
        "print(get(new(), host='localhost:8000'))",
        "print(get(new(), host='docker'))",
        "connect('api.example.com:443'); world = 1; print(get(new(), host='other.example.com'))",
    ],
    ids=["loopback", "a unix socket's made-up host", "a host that no tunnel leads to"],
)
def test_outside_of_a_tunnel_there_is_no_pass(world: World, source: str) -> None:
    assert "Outpass-Token" not in run(world, source)
    assert all(m["use"] == "connect" for m in world.broker.of("mint"))


@pytest.mark.parametrize("kind, shown", [("opaque", False), ("http", True)])
def test_a_connection_knows_the_kind_of_its_own_tunnel(world: World, kind: str, shown: bool) -> None:
    """The tunnel of another kind to the same host, opened later by somebody else, does not count."""
    kinds = [kind, "http" if kind == "opaque" else "opaque"]
    world.broker.answers = lambda m: {"pass": "p", "tunnel": kinds.pop(0)} if m.get("use") == "connect" else None
    out = run(world, "connect('api.example.com:443'); c = new(); get(c); again(c); connect('api.example.com:443'); print(get(c))")
    assert ("Outpass-Token" in out) is shown


def test_two_contexts_do_not_confuse_their_tunnels(world: World) -> None:
    kinds = {"a": "opaque", "b": "http"}
    world.broker.answers = lambda m: {"pass": "p", "tunnel": kinds[m["dst"][0]]} if m.get("use") == "connect" else None
    out = run(
        world,
        """
import asyncio
async def one(place):
    connect(place + ":443")
    await asyncio.sleep(0)
    return b"Outpass-Token" in get(new(), host=place)
async def main():
    print(await asyncio.gather(one("a.example.com"), one("b.example.com")))
asyncio.run(main())
""",
    )
    assert out.strip() == "[False, True]"


def test_a_server_s_use_is_untouched(world: World) -> None:
    run(
        world,
        """
s = h11.Connection(our_role=h11.SERVER)
s.receive_data(b"GET / HTTP/1.1\\r\\nHost: api.example.com\\r\\n\\r\\n")
s.next_event()
assert s.send(event=h11.Response(status_code=200, headers=[])).startswith(b"HTTP/1.1 200")
assert s.send_with_data_passthrough(event=h11.EndOfMessage()) is not None
""",
    )
    assert world.broker.got == []


def test_with_a_broker_that_is_gone_requests_go_out_without_a_pass(world: World) -> None:
    world.broker.close()
    out = run(world, "print(connect('api.example.com:443')); print(get(new()))")
    assert "pass" not in out.lower()


H2 = """
import os, sys
sys.path.append(os.environ["LIBRARIES"])
import h11, h2.config, h2.connection, h2.events
connect = h11.Connection(our_role=h11.CLIENT).send
def tunnel(place):
    connect(h11.Request(method="CONNECT", target=place, headers=[("Host", place)]))
def pair():
    c = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True)); c.initiate_connection()
    s = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8")); s.initiate_connection()
    return c, s
def seen(c, s):
    return [dict(e.headers) for e in s.receive_data(c.data_to_send()) if isinstance(e, h2.events.RequestReceived)]
"""


@pytest.mark.parametrize("binary", [False, True], ids=["headers as text", "headers as bytes"])
def test_h2_each_new_stream_gets_its_own_pass_and_trailers_get_none(world: World, binary: bool) -> None:
    pytest.importorskip("h2")
    world.env["LIBRARIES"] = BASE
    world.run(
        H2
        + f"""
tunnel("api.example.com:443")
c, s = pair()
head = [(":method", "POST"), (":scheme", "https"), (":authority", "api.example.com"), (":path", "/")]
if {binary}: head = [(n.encode(), v.encode()) for n, v in head]
c.send_headers(1, head); c.send_headers(stream_id=1, headers=[("x-sum", "1")], end_stream=True)
c.send_headers(3, headers=head, end_stream=True)
got = seen(c, s)
assert [g["outpass-token"] for g in got] == ["pass-2", "pass-3"], got
s.send_headers(1, [(":status", "200")]); s.send_headers(3, [(":status", "200")])
assert all(b"outpass" not in dict(getattr(e, "headers", [])or []) for e in c.receive_data(s.data_to_send()))
"""
    )
    assert [m["use"] for m in world.broker.of("mint")] == ["connect", "request", "request"]


def test_h2_in_an_opaque_tunnel_gets_no_pass(world: World) -> None:
    pytest.importorskip("h2")
    world.env["LIBRARIES"] = BASE
    world.broker.answers = lambda m: {"pass": "p", "tunnel": "opaque"} if m.get("use") == "connect" else None
    world.run(
        H2
        + """
tunnel("api.example.com:443")
c, s = pair()
c.send_headers(1, [(":method", "GET"), (":scheme", "https"), (":authority", "api.example.com"), (":path", "/")], end_stream=True)
assert "outpass-token" not in seen(c, s)[0]
"""
    )

"""Sockets, DNS and listening: what is local goes through, the rest only with the broker's leave.

Lives here: real programs on real sockets. May not live here: the policy (the broker of the rig says what a test wants).
"""

from __future__ import annotations

import json

import pytest

from tests.shim.rig import World

REFUSED = {
    "a connection": ("alpha.connect('192.0.2.1', 80)", "network:socket", "192.0.2.1:80"),
    "a connection to a name": ("alpha.connect('db.internal', 5432)", "network:socket", "db.internal:5432"),
    "a name that begins like loopback": (
        "alpha.connect('127.0.0.1.example.com', 80)",
        "network:socket",
        "127.0.0.1.example.com:80",
    ),
    "the broadcast address": ("alpha.connect('<broadcast>', 9, 'UDP')", "network:socket", "<broadcast>:9"),
    "connect_ex": ("alpha.connect_ex('192.0.2.1', 80)", "network:socket", "192.0.2.1:80"),
    "a datagram": ("alpha.sendto('192.0.2.1', 53)", "network:socket", "192.0.2.1:53"),
    "a datagram by sendmsg": ("alpha.sendmsg('192.0.2.1', 53)", "network:socket", "192.0.2.1:53"),
    "a look-up": ("socket.getaddrinfo('db.internal', 5432)", "network:dns", "db.internal:53"),
    "a look-up as create_connection does it": (
        "socket.create_connection(('db.internal', 5432))",
        "network:dns",
        "db.internal:53",
    ),
    "a look-up in bytes": ("socket.getaddrinfo(b'db.internal', 5432)", "network:dns", "db.internal:53"),
    "gethostbyname": ("socket.gethostbyname('db.internal')", "network:dns", "db.internal:53"),
    "gethostbyname_ex": ("socket.gethostbyname_ex('db.internal')", "network:dns", "db.internal:53"),
    "a reverse look-up": ("socket.gethostbyaddr('192.0.2.1')", "network:dns", "192.0.2.1:53"),
    "getnameinfo": ("socket.getnameinfo(('192.0.2.1', 80), 0)", "network:dns", "192.0.2.1:53"),
    "listening to the world": ("alpha.listen('0.0.0.0')", "network:listen", "0.0.0.0:"),
}
ALPHA = """
import socket
def made(kind):
    return socket.socket(type=socket.SOCK_DGRAM if kind == "UDP" else socket.SOCK_STREAM)
def connect(host, port, kind="TCP"):
    made(kind).connect((host, port))
def connect_ex(host, port):
    made("TCP").connect_ex((host, port))
def sendto(host, port):
    made("UDP").sendto(b"x", (host, port))
def sendmsg(host, port):
    made("UDP").sendmsg([b"x"], [], 0, (host, port))
def listen(host):
    s = made("TCP"); s.bind((host, 0)); s.listen(1)
def run(f):
    return f()
"""
LOCAL = {
    "loopback": "socket.create_server(('127.0.0.1', 0))",
    "ipv6 loopback": "socket.create_server(('::1', 0), family=socket.AF_INET6) if socket.has_ipv6 else None",
    "a unix socket": "socket.socketpair()",
    "the look-up of localhost": "socket.getaddrinfo('localhost', 80)",
    "the look-up of a literal": "socket.getaddrinfo('192.0.2.1', 80)",
    "the look-up of nothing": "socket.getaddrinfo(None, 80)",
    "the look-up of this host": "socket.getaddrinfo(socket.gethostname(), 80)",
    "getnameinfo in numbers": "socket.getnameinfo(('192.0.2.1', 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)",
    "a datagram to loopback": "alpha.sendto('127.0.0.1', 9)",
    "loopback in other spellings": "[alpha.connect(h, 9, 'UDP') for h in ('127.1', '0x7f.1', '2130706433', 'localhost', '')]",
}


def attempt(world: World, expression: str) -> dict[str, object]:
    world.package("alpha", ALPHA)
    done = world.run(
        f"""
        import alpha, json, socket
        try:
            alpha.run(lambda: {expression})
            said = {{"ok": True}}
        except PermissionError as e:
            import outpass_shim, pickle
            assert isinstance(e, outpass_shim.EgressDenied) and pickle.loads(pickle.dumps(e)).reason == e.reason
            said = dict(e.__dict__, errno=e.errno, text=e.strerror)
        except OSError as e:
            said = {{"os": repr(e)}}
        print(json.dumps(said))
        """
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("what", REFUSED)
def test_without_a_grant_it_is_refused_with_who_what_where_and_why(world: World, what: str) -> None:
    expression, capability, destination = REFUSED[what]
    said = attempt(world, expression)
    assert said["errno"] == 13
    assert (said["capability"], said["reason"]) == (capability, "no_rule")
    assert str(said["destination"]).startswith(destination)
    assert said["text"] == f"{said['package']} may not reach {said['destination']}"
    (check,) = world.broker.of("check")
    assert (check["cap"], check["dst"], check["chain"]) == (said["capability"], said["destination"], said["chain"])


def test_the_package_that_opens_the_socket_is_charged(world: World) -> None:
    said = attempt(world, "alpha.connect('192.0.2.1', 80)")
    assert (said["package"], said["chain"]) == ("alpha", ["alpha", "app"])


@pytest.mark.parametrize("what", LOCAL)
def test_what_is_local_goes_through_unasked(world: World, what: str) -> None:
    assert attempt(world, LOCAL[what]) == {"ok": True}
    assert world.broker.got == []


def test_with_a_grant_the_call_is_made(world: World) -> None:
    world.broker.answers = lambda m: {"allow": True} if m["op"] == "check" else None
    # 192.0.2.0/24 is for documentation (RFC 5737): a datagram to it harms nobody
    assert attempt(world, "alpha.listen('0.0.0.0')") == {"ok": True}
    assert [m["cap"] for m in world.broker.of("check")] == ["network:listen"]


RESOLVED = """
import alpha, types, outpass_shim._guard as guard
found = [(2, 1, 6, "", ("192.0.2.9", 5432)), (10, 1, 6, "", ("2001:db8::9", 5432, 0, 0))]
fake = types.SimpleNamespace(
    getaddrinfo=lambda *_: found, getnameinfo=None, gethostbyname=lambda _: "192.0.2.7",
    gethostbyname_ex=lambda h: (h, [], ["192.0.2.6"]), gethostbyaddr=None)
guard.patch_resolver(fake)
fake.getaddrinfo("db.internal", 5432); fake.gethostbyname("one.internal"); fake.gethostbyname_ex("two.internal")
fake.getaddrinfo("192.0.2.5", 5432)
for host in ("192.0.2.9", "192.0.2.7", "192.0.2.6", "192.0.2.5"):
    try: alpha.connect(host, 5432)
    except PermissionError: pass
"""


def test_a_connection_to_an_address_says_which_name_was_looked_up_to_get_it(world: World) -> None:
    world.package("alpha", ALPHA)
    world.broker.answers = lambda m: {"allow": m["cap"] == "network:dns", "reason": "no_rule"} if m["op"] == "check" else None
    world.run(RESOLVED)
    asked = [(m["dst"], m.get("name")) for m in world.broker.of("check") if m["cap"] == "network:socket"]
    named = [("192.0.2.9", "db.internal"), ("192.0.2.7", "one.internal"), ("192.0.2.6", "two.internal"), ("192.0.2.5", None)]
    assert asked == [(f"{host}:5432", name) for host, name in named]


STREAM_OF_DATAGRAMS = """
import alpha, beta, socket, time
s = socket.socket(type=socket.SOCK_DGRAM)
def send(who, host="192.0.2.1"):
    try: who.send(s, host)
    except PermissionError: return "refused"
    except OSError: pass
"""


@pytest.mark.parametrize("allow", [True, False], ids=["allowed", "refused"])
def test_a_stream_of_datagrams_asks_once_a_second_for_each_chain_and_destination(world: World, allow: bool) -> None:
    """A refusal is asked about each time: it may be lifted, and whoever sends on regardless pays for it."""
    world.broker.answers = lambda m: {"allow": allow, "reason": "no_rule"} if m["op"] == "check" else None
    for name in ("alpha", "beta"):
        world.package(name, "def send(s, host): s.sendto(b'x', (host, 9))")
    # A clock that stands still, or goes on by a second, as the program says.
    clock = "now = [0.0]\ntime.monotonic = lambda: now[0]\n"
    world.run(
        STREAM_OF_DATAGRAMS
        + clock
        + "for _ in range(5): send(alpha)\nsend(beta); send(alpha, '192.0.2.2'); now[0] = 1.5; send(alpha)"
    )
    asked = [(m["chain"][0], m["dst"]) for m in world.broker.of("check")]
    first = [("alpha", "192.0.2.1:9")]
    assert asked == first * (1 if allow else 5) + [("beta", "192.0.2.1:9"), ("alpha", "192.0.2.2:9"), *first]


@pytest.mark.parametrize(
    "answer, reason",
    [
        ({"error": "session_refused", "say": "no"}, "session_refused"),
        ({"allow": "yes"}, "internal"),
        ({}, "internal"),
    ],
    ids=["an error", "an allow that is not true", "nothing"],
)
def test_any_other_answer_is_a_refusal(world: World, answer: dict[str, object], reason: str) -> None:
    world.broker.answers = lambda m: (answer or {"x": 1}) if m["op"] == "check" else None
    assert attempt(world, "alpha.connect('192.0.2.1', 80)")["reason"] == reason


@pytest.mark.parametrize("when", ["from the start", "after hello"])
def test_with_a_broker_that_is_gone_everything_is_refused(world: World, when: str) -> None:
    if when == "from the start":
        world.broker.close()
    else:
        world.broker.answers = lambda m: world.broker.close() if m["op"] == "check" else None  # type: ignore[func-returns-value]
    assert attempt(world, "alpha.connect('192.0.2.1', 80)")["reason"] == "broker_unavailable"


def test_a_process_without_a_session_is_refused_with_the_broker_s_reason(world: World) -> None:
    world.broker.answers = lambda m: {"error": "spawn_pass_required", "say": "keep OUTPASS_SPAWN"}
    said = attempt(world, "alpha.connect('192.0.2.1', 80)")
    assert (said["reason"], said["text"], said["chain"]) == ("spawn_pass_required", "keep OUTPASS_SPAWN", ["?"])


def test_asyncio_s_streams_and_look_ups_are_charged_to_who_opens_them(world: World) -> None:
    world.package("alpha", "import asyncio\nasync def go():\n    await asyncio.open_connection('db.internal', 5432)\n")
    world.run("import alpha, asyncio\ntry: asyncio.run(alpha.go())\nexcept PermissionError: pass")
    (check,) = world.broker.of("check")
    assert (check["cap"], check["dst"], check["chain"]) == ("network:dns", "db.internal:53", ["alpha", "app"])

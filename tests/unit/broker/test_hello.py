"""Messages of the shim's protocol: what is read and what is refused."""

from __future__ import annotations

import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpass.broker import hello
from outpass.errors import SessionError
from outpass.reasons import Reason

MINT = {
    "op": "mint",
    "use": "request",
    "cap": "network:http",
    "dst": "API.example.com.:443",
    "tls": True,
    "chain": ["six", "app"],
}
HELLO = {"op": "hello", "v": 1, "paths": ["/a"], "argv": ["x" * 999], "cwd": "/", "spawn": None, "fork_of": None}


def test_a_mint_is_read_in_normal_form() -> None:
    assert hello.read_mint(MINT) == hello.Ask("request", "network:http", "api.example.com", 443, True, ("six", "app"))


@pytest.mark.parametrize(
    ("dst", "host", "port"),
    [
        ("[::1]:443", "::1", 443),
        ("0x7f.1:80", "127.0.0.1", 80),
        ("[::ffff:10.0.0.1]:1", "10.0.0.1", 1),
        ("bücher.example:443", "xn--bcher-kva.example", 443),
    ],
)
def test_every_spelling_of_a_destination_is_that_destination(dst: str, host: str, port: int) -> None:
    ask = hello.read_mint({**MINT, "dst": dst})
    assert (ask.host, ask.port) == (host, port)


def test_a_spawn_pass_is_for_no_destination_whatever_is_said() -> None:
    ask = hello.read_mint({**MINT, "use": "spawn", "dst": "api.example.com:443"})
    assert (ask.host, ask.port) == ("*", 0)


@pytest.mark.parametrize(
    "entry",
    [
        "six",
        "a",
        "a-b-c",
        "a1",
        "!six",
        "app",
        "!app",
        "?",
        "pkg:pypi/app",
        "pkg:npm/left-pad",
        "pkg:npm/@scope/Name.js",
        "!pkg:npm/x",
    ],
)
def test_names_that_a_shim_may_say(entry: str) -> None:
    assert hello.read_mint({**MINT, "chain": [entry]}).chain == (entry,)


@pytest.mark.parametrize(
    "entry",
    ["", "*", "unattributed", "!unattributed", "!*", "exe:git", "Six", "a_b", "a.b", "-a", "a-", "a b", "a@1", 'a"', "a\\", "!!a", "!?", "é",
     "a" * 101, "pkg:pypi/six", "pkg:npm/", "pkg:generic/app", "app\n", 5, None, ["six"]],
)  # fmt: skip
def test_names_that_it_may_not(entry: object) -> None:
    with pytest.raises(hello.Refused) as refused:
        hello.read_mint({**MINT, "chain": [entry]})
    assert refused.value.reason is Reason.BAD_REQUEST


@pytest.mark.parametrize(("length", "kept", "last"), [(0, 1, "?"), (64, 64, "app"), (65, 64, "?"), (500, 64, "?")])
def test_chains_have_at_most_64_entries_and_what_is_cut_is_nobody(length: int, kept: int, last: str) -> None:
    chain = hello.read_mint({**MINT, "chain": ["app"] * length}).chain
    assert (len(chain), chain[-1]) == (kept, last)


@pytest.mark.parametrize(
    ("cap", "dst", "reason"),
    [
        ("network:http", "x:1", Reason.PROTOCOL_UNKNOWN),
        (None, "x:1", Reason.PROTOCOL_UNKNOWN),
        ("network:socket", "x", Reason.BAD_TARGET),
    ],
)
def test_checks_are_for_what_passes_no_gate(cap: object, dst: str, reason: Reason) -> None:
    with pytest.raises(hello.Refused) as refused:
        hello.read_check({"op": "check", "cap": cap, "dst": dst, "chain": ["app"]})
    assert refused.value.reason is reason


def test_listening_on_a_port_that_the_kernel_chooses_can_be_asked_for() -> None:
    assert hello.read_check({"cap": "network:listen", "dst": "0.0.0.0:0", "chain": ["app"]}).port == 0


def test_a_hello_is_read_and_cut() -> None:
    read = hello.read_hello(HELLO)
    assert read.paths == ("/a",) and len(read.argv[0]) == 200 and read.spawn is None
    assert hello.read_hello({**HELLO, "spawn": "", "more": 1}).spawn is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"v": 2}, Reason.PROTOCOL_UNKNOWN),
        ({"v": True}, Reason.PROTOCOL_UNKNOWN),
        ({"paths": "/a"}, Reason.SESSION_REFUSED),
        ({"argv": [1]}, Reason.SESSION_REFUSED),
        ({"spawn": 1}, Reason.SESSION_REFUSED),
        ({"fork_of": {}}, Reason.SESSION_REFUSED),
    ],
)
def test_a_hello_of_another_shape_is_refused(change: dict[str, object], reason: Reason) -> None:
    with pytest.raises(SessionError) as refused:
        hello.read_hello({**HELLO, **change})
    assert refused.value.reason is reason


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """Invariant: no message makes anything but an object or Refused."""
    try:
        read: object = hello.read(data)
    except hello.Refused as e:
        read = {e.reason: Reason.BAD_REQUEST}
    assert isinstance(read, dict)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(string.printable, max_size=12)
    | st.sampled_from(["request", "network:http", "h:1", "app"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("use", "cap", "dst", "tls", "chain", "v", "paths", "argv", "spawn", "fork_of"), values)
    )
)
def test_any_object_is_read_or_refused(message: dict[str, object]) -> None:
    """Invariant: whatever the fields hold, the readers answer with a value of their type or with a reason."""
    message = json.loads(json.dumps(message))
    for reader in (hello.read_mint, hello.read_check, hello.read_hello):
        try:
            read: object = reader(message)
        except (hello.Refused, SessionError) as e:
            read = e.reason
        assert isinstance(read, hello.Ask | hello.Hello | Reason)

"""From the header of a pass to who asks, and every reason for which it is nobody."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from outpass.errors import PassError
from outpass.gate import principal
from outpass.passes import token
from outpass.passes.ledger import SIZE_BYTES, Ledger
from outpass.reasons import Reason

KEY = bytes(range(32))
MADE = token.Pass(
    "j-1", "pkg:pypi/stripe@11", ("stripe", "app"), ("11", None), "s-1", "request", "network:http", "api.test", 443, 7, 1000, 1030, "http", None, "outpass:1", "k1"
)  # fmt: skip


def _passes(now: float = 1000.0, ended: tuple[str, ...] = ()) -> principal.Passes:
    return principal.Passes({"k1": KEY}, Ledger(memoryview(bytearray(SIZE_BYTES))), ended, lambda: now, "outpass:1")


def _admit(passes: principal.Passes, **claims: Any) -> token.Pass:
    text = token.mint(MADE._replace(**claims), KEY)
    return passes.admit(text, jail="j-1", host="api.test", port=443, uses=principal.REQUEST_USES)


def test_a_good_pass_names_who_asks() -> None:
    asker = principal.of_pass(_admit(_passes()))
    assert asker == (("stripe", "app"), ("11", None), "network:http", "s-1", None)


@pytest.mark.parametrize(
    "claims, reason",
    [
        ({"jail": "j-2"}, Reason.PASS_FOREIGN_JAIL),
        ({"iss": "outpass:2"}, Reason.PASS_FORGED),
        ({"sid": "s-over"}, Reason.PASS_SESSION_ENDED),
        ({"use": "connect"}, Reason.PASS_WRONG_USE),
        ({"use": "channel"}, Reason.PASS_WRONG_USE),
        ({"cap": "network:dns"}, Reason.PASS_WRONG_USE),
        ({"host": "evil.test"}, Reason.PASS_WRONG_DESTINATION),
        ({"port": 8443}, Reason.PASS_WRONG_DESTINATION),
        ({"iat": 900, "exp": 930}, Reason.PASS_EXPIRED),
    ],
)
def test_a_pass_that_does_not_fit_is_refused_and_not_spent(claims: dict[str, Any], reason: Reason) -> None:
    passes = _passes(ended=("s-over",))
    with pytest.raises(PassError) as caught:
        _admit(passes, **claims)
    assert caught.value.reason is reason
    assert _admit(passes).serial == 7, "the serial was not burned"


def test_a_pass_is_burned_and_a_spawn_pass_is_not() -> None:
    passes = _passes()
    _admit(passes)
    with pytest.raises(PassError) as caught:
        _admit(passes)
    assert caught.value.reason is Reason.PASS_REPLAYED
    for _ in range(3):
        assert _admit(passes, use="spawn", host="*", port=0, serial=8).use == "spawn"


def test_a_tunnels_pass_ends_with_its_time_and_its_session() -> None:
    with pytest.raises(PassError) as caught:
        _passes(now=1030).still_good(MADE)
    assert caught.value.reason is Reason.PASS_EXPIRED
    with pytest.raises(PassError) as caught:
        _passes(ended=("s-1",)).still_good(MADE)
    assert caught.value.reason is Reason.PASS_SESSION_ENDED


def test_an_empty_chain_is_somebody_and_not_the_unattributed() -> None:
    assert principal.of_pass(MADE._replace(chain=(), versions=())).chain == ("?",)


@pytest.mark.parametrize(
    "value, text",
    [
        (b"Bearer a.b.c", "a.b.c"),
        (b"bearer  a.b.c ", "a.b.c"),
        (b"Basic " + base64.b64encode(b"a.b.c:"), "a.b.c"),
        (b"BASIC " + base64.b64encode(b"a.b.c:x:y"), "a.b.c"),
        (b"Basic " + base64.b64encode(b"a.b.c"), "a.b.c"),
    ],
)
def test_a_pass_is_found_in_both_schemes(value: bytes, text: str) -> None:
    assert principal.pass_in(value) == text


@pytest.mark.parametrize("value", [b"", b"a.b.c", b"Digest x", b"Basic !!!", b"Basic \xff\xfe", b"Bearer \xff"])
def test_anything_else_is_malformed(value: bytes) -> None:
    with pytest.raises(PassError) as caught:
        principal.pass_in(value)
    assert caught.value.reason is Reason.PASS_MALFORMED


@pytest.mark.parametrize(("jump", "reason"), [(600, Reason.PASS_EXPIRED), (-600, Reason.PASS_EXPIRED)])
def test_a_clock_that_jumps_costs_the_passes_in_flight_and_nothing_else(jump: int, reason: Reason) -> None:
    """One clock, as broker and gate have: what was issued before the jump is refused, what is issued after it is good once."""
    now = 1000.0
    passes = principal.Passes({"k1": KEY}, Ledger(memoryview(bytearray(SIZE_BYTES))), (), lambda: now, "outpass:1")
    _admit(passes, serial=1)
    now += jump
    for serial in (1, 2):
        with pytest.raises(PassError) as caught:
            _admit(passes, serial=serial)
        assert caught.value.reason is reason
    fresh = {"serial": 3, "iat": int(now), "exp": int(now) + 30}
    assert _admit(passes, **fresh).serial == 3
    now -= jump
    with pytest.raises(PassError):
        _admit(passes, **fresh)
    with pytest.raises(PassError) as caught:
        _admit(passes, serial=1)
    assert caught.value.reason is Reason.PASS_REPLAYED, "a clock that comes back makes no pass good again"
    assert _admit(passes, serial=2).serial == 2

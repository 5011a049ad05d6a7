"""The pass against its golden vectors, and what mint() itself must refuse."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from outpass.errors import PassError
from outpass.passes.token import LEEWAY_S, Pass, mint, verify
from outpass.reasons import Reason

ROOT = Path(__file__).resolve().parents[3]
VECTORS: dict[str, Any] = json.loads((ROOT / "client_shim/vectors/pass.json").read_text())
KEYS = {kid: base64.b64decode(key) for kid, key in VECTORS["keys"].items()}
NOW: int = VECTORS["now"]
JAIL: str = VECTORS["jail"]


def the_pass(**changes: Any) -> Pass:
    fields = {**VECTORS["good"][0]["pass"], **changes}
    deny = fields["deny"]
    fields["chain"], fields["versions"] = tuple(fields["chain"]), tuple(fields["versions"])
    return Pass(**{**fields, "deny": deny and Reason(deny)})


@pytest.mark.parametrize("case", VECTORS["good"], ids=lambda c: c["name"])
def test_a_golden_pass_is_minted_byte_for_byte_and_read_back(case: dict[str, Any]) -> None:
    p = the_pass(**case["pass"])
    assert mint(p, KEYS[p.kid]) == case["text"]
    assert verify(case["text"], KEYS, now=NOW, jail=JAIL) == p


@pytest.mark.parametrize("case", VECTORS["bad"], ids=lambda c: c["name"])
def test_a_bad_pass_is_refused_with_its_reason(case: dict[str, Any]) -> None:
    with pytest.raises(PassError) as refused:
        verify(case["text"], KEYS, now=case.get("now", NOW), jail=JAIL)
    assert refused.value.reason == case["reason"]
    assert refused.value.message[0].islower() and not refused.value.message.endswith(".")


UNMINTABLE = {
    "a name with an at sign would be read as another version": {"chain": ["stripe@99"], "versions": [None]},
    "a name with a quote would open a claim": {"chain": ['a","app'], "versions": [None]},
    "a name that closes the chain and adds a claim": {"chain": ['a"],"use":"spawn","x":["'], "versions": [None]},
    "a name with a control character": {"chain": ["a\x1b[2J"], "versions": [None]},
    "a name with a backslash": {"chain": ["a\\u0022"], "versions": [None]},
    "a name beyond ASCII": {"chain": ["strіpe"], "versions": [None]},
    "an empty name": {"chain": [""], "versions": [None]},
    "an empty version": {"chain": ["stripe"], "versions": [""]},
    "a session id that is two claims": {"sid": 's","use":"spawn'},
    "a host with a port in it is another host": {"host": "a.example:1", "port": 2},
    "an empty host": {"host": ""},
    "a port out of range": {"port": 65_536},
    "a port that is a truth value": {"port": True},
    "serial zero": {"serial": 0},
    "a negative serial": {"serial": -1},
    "a serial beyond eight signed bytes": {"serial": 1 << 63},
    "a fraction of a second": {"iat": 1.5},
    "an end before the beginning": {"exp": 1},
    "a use that does not exist": {"use": "admin"},
    "a denial that allows": {"deny": "allowed"},
    "a pass longer than a header may be": {"chain": ["a" * 200] * 64, "versions": [None] * 64},
}


@pytest.mark.parametrize("changes", UNMINTABLE.values(), ids=UNMINTABLE)
def test_what_would_not_be_read_back_the_same_is_not_minted(changes: dict[str, Any]) -> None:
    with pytest.raises(PassError) as refused:
        mint(the_pass(**changes), KEYS["k1"])
    assert refused.value.reason is Reason.PASS_MALFORMED


@pytest.mark.parametrize("key", [b"", b"x" * 31])
def test_a_short_key_neither_signs_nor_verifies(key: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        mint(the_pass(), key)
    with pytest.raises(PassError) as refused:
        verify(VECTORS["good"][0]["text"], {"k1": key}, now=NOW, jail=JAIL)
    assert refused.value.reason is Reason.PASS_FORGED


def test_a_chain_without_one_version_each_is_not_minted() -> None:
    with pytest.raises(ValueError, match="zip"):
        mint(the_pass(versions=["11.4.0"]), KEYS["k1"])


CLOCKS: dict[str, tuple[float, bool]] = {
    "at its first second": (1763770000.0, True),
    "just before its end": (1763770029.999, True),
    "at its end": (1763770030.0, False),
    "before its beginning, within the leeway": (1763770000.0 - LEEWAY_S, True),
    "before its beginning, beyond the leeway": (1763770000.0 - LEEWAY_S - 0.001, False),
    "a clock that is not a number": (float("nan"), False),
}


@pytest.mark.parametrize("now,good", CLOCKS.values(), ids=CLOCKS)
def test_a_pass_is_honoured_between_its_beginning_and_its_end(now: float, good: bool) -> None:
    if good:
        assert verify(VECTORS["good"][0]["text"], KEYS, now=now, jail=JAIL) == the_pass()
        return
    with pytest.raises(PassError) as refused:
        verify(VECTORS["good"][0]["text"], KEYS, now=now, jail=JAIL)
    assert refused.value.reason is Reason.PASS_EXPIRED

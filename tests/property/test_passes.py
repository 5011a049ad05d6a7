"""Properties of passes: what is minted is read back, what is not minted is not honoured, nothing burns twice."""

from __future__ import annotations

import base64
import hmac
import re

from hypothesis import given
from hypothesis import strategies as st

from outpass.errors import PassError
from outpass.model import Capability
from outpass.passes import token
from outpass.passes.ledger import SIZE_BYTES, Ledger
from outpass.passes.token import Pass, mint, verify
from outpass.reasons import Reason

KEY = b"k" * 32
KEYS = {"k1": KEY}

words = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters='"\\@'), min_size=1, max_size=20)
versions = st.one_of(st.none(), words)
chains = st.lists(st.tuples(words, versions), max_size=8)
hosts = st.from_regex(r"[a-z0-9.-]{1,30}", fullmatch=True) | st.ip_addresses(v=6).map(str)
honest = st.builds(
    lambda chain, **fields: Pass(
        chain=tuple(name for name, _ in chain), versions=tuple(version for _, version in chain), kid="k1", **fields
    ),
    chain=chains,
    jail=words,
    sub=words,
    sid=words,
    iss=words,
    use=st.sampled_from(["request", "connect", "channel", "spawn"]),
    cap=st.sampled_from([c.value for c in Capability]),
    host=hosts,
    port=st.integers(0, 65_535),
    serial=st.integers(1, (1 << 63) - 1),
    iat=st.just(1_000),
    exp=st.integers(1_001, 1 << 40),
    tunnel=st.sampled_from(["http", "opaque"]),
    deny=st.none() | st.sampled_from([r for r in Reason if r is not Reason.ALLOWED]),
)
hostile = st.builds(
    lambda p, chain, sid, host: p._replace(chain=tuple(chain), versions=(None,) * len(chain), sid=sid, host=host),
    honest,
    st.lists(st.text(max_size=40) | st.just('x"],"use":"spawn","chain":["y'), max_size=4),
    st.text(max_size=40) | st.just('s","aud":"j-other'),
    st.text(max_size=40),
)


@given(honest)
def test_every_honest_pass_is_read_back_as_it_was_meant(p: Pass) -> None:
    """Invariant: verify(mint(p)) == p, for every pass of well-formed claims."""
    assert verify(mint(p, KEY), KEYS, now=1_000, jail=p.jail) == p


@given(st.binary(min_size=32, max_size=200), st.text(max_size=300))
def test_the_signature_is_hmac_with_sha256(key: bytes, text: str) -> None:
    """Invariant: for any key and text it is what the standard library's HMAC gives."""
    assert token._signature(text, key) == token._base64(hmac.digest(key, text.encode(), "sha256"))


@given(st.binary(max_size=30).map(token._base64) | st.text("AQgwBz019-_+/=\n ", max_size=9))
def test_base64url_has_one_spelling(text: str) -> None:
    """Invariant: what is decoded would be encoded as that very text, and all that would be is decoded, where it is UTF-8."""
    try:
        decoded = token._unbase64(text)
    except PassError:
        padded = text.translate({ord("-"): "+", ord("_"): "/"}) + "=" * (-len(text) % 4)
        raw = base64.b64decode(padded) if set(text) <= set(_ALPHABET) and len(text) % 4 != 1 else b"\xff"
        assert token._base64(raw) != text or not _is_text(raw)
    else:
        assert token._base64(decoded.encode()) == text


NUMBERS = st.one_of(st.integers(-1, 1 << 64), st.sampled_from(["00", "01", "1.0", "1e3", "true", '"1"', "", "1,1"]))


@given(honest, NUMBERS, NUMBERS, NUMBERS, st.sampled_from(["", '"jti":"7","iat":1,"exp":2,', '"x":["jti",1],']))
def test_a_pass_that_is_read_by_parts_is_read_as_a_whole(p: Pass, serial: object, iat: object, exp: object, more: str) -> None:
    """Invariant: for any numbers and whatever stands around them, pass or refusal equal those of the parser that takes nothing as known."""
    text = token._unbase64(mint(p, KEY).split(".")[1])
    numbers = f'{more}"jti":"{serial}","iat":{iat},"exp":{exp},'
    changed = re.sub(r'"jti":"\d+","iat":\d+,"exp":\d+,', lambda _: numbers, text)
    said = []
    for read in (token._read, token._parsed):
        try:
            said.append(read(changed, "k1"))
        except PassError as refused:
            said.append(refused.reason)
    assert said[0] == said[1]


_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def _is_text(raw: bytes) -> bool:
    try:
        return raw.decode() is not None
    except UnicodeDecodeError:
        return False


@given(hostile)
def test_hostile_names_are_refused_or_carried_exactly(p: Pass) -> None:
    """Invariant: whatever a package calls itself, mint refuses it or verify gives exactly it back: nothing is smuggled."""
    try:
        text = mint(p, KEY)
    except PassError:
        return
    assert verify(text, KEYS, now=1_000, jail=p.jail) == p


@given(honest, st.data())
def test_no_other_text_stands_for_a_pass(p: Pass, data: st.DataObject) -> None:
    """Invariant: any change of any one character, also one that base64 would forgive, makes the pass worthless."""
    text = mint(p, KEY)
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(max_codepoint=255).filter(lambda c: c != text[at]))
    for changed in (text[:at] + other + text[at + 1 :], text[:at] + other + text[at:], text[:at] + text[at + 1 :]):
        if changed == text:
            continue
        refused = False
        try:
            verify(changed, KEYS, now=1_000, jail=p.jail)
        except PassError:
            refused = True
        assert refused


@given(st.text() | st.from_regex(r"[\w.=-]*\.[\w=-]*\.[\w=-]*", fullmatch=True))
def test_arbitrary_text_is_refused_and_never_raises_anything_else(text: str) -> None:
    """Invariant: no matter what a client sends as a pass, the answer is a PassError with a pass_* reason."""
    reason = None
    try:
        verify(text, KEYS, now=1_000, jail="j")
    except PassError as error:
        reason = error.reason
    assert reason in {Reason.PASS_MALFORMED, Reason.PASS_FORGED}


@given(st.binary())
def test_signed_rubbish_is_refused_as_malformed(payload: bytes) -> None:
    """Invariant: even under a good signature, a payload that the broker does not write is refused, not guessed at."""
    header = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"outpass+jwt","kid":"k1"}').rstrip(b"=")
    signed = header + b"." + base64.urlsafe_b64encode(payload).rstrip(b"=")
    signature = base64.urlsafe_b64encode(hmac.digest(KEY, signed, "sha256")).rstrip(b"=")
    reason = None
    try:
        verify((signed + b"." + signature).decode(), KEYS, now=1_000, jail="j")
    except PassError as error:
        reason = error.reason
    assert reason is Reason.PASS_MALFORMED


@given(st.lists(st.integers(1, 1 << 19)))
def test_nothing_burns_twice(serials: list[int]) -> None:
    """Invariant: whatever the order, and whichever slots collide, burn() is True at most once for a serial."""
    ledger = Ledger(memoryview(bytearray(SIZE_BYTES)))
    burned = [n for n in serials if ledger.burn(n)]
    assert len(burned) == len(set(burned))


@given(st.integers(1, 1 << 40), st.permutations(range(64)))
def test_recent_serials_all_burn_in_any_order(start: int, order: list[int]) -> None:
    """Invariant: while fewer passes are out than the ring has slots, every one of them is honoured."""
    ledger = Ledger(memoryview(bytearray(SIZE_BYTES)))
    assert all(ledger.burn(start + n) for n in order)

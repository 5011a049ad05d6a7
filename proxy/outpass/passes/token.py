"""The pass: a compact JWS (RFC 7515) over a closed set of claims, minted by the broker, verified by the gate.

Lives here: the claims, their encoding, the signature, and every reason for which the text alone is not honoured.
May not live here: one-use (ledger.py), whether destination, use or session fit a request (gate/), clocks, key storage.

The signature is checked before one byte of the claims is parsed, so hostile text meets a MAC and a split, nothing more.
The rules of RFC 8725 that apply are enforced below: one algorithm, chosen by us and not by the header (3.1), explicit
typing (3.11), issuer's key and audience checked (3.8, 3.9), no header parameter but the three that we write (3.10).
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple, NoReturn

from outpass.errors import PassError
from outpass.model import Capability
from outpass.reasons import Reason

LIFE_S: Final = 30
"""Seconds that a `request` or `connect` pass lives; the broker sets `exp`, this is what it sets it to."""
LEEWAY_S: Final = 5
"""Seconds by which `iat` may lie ahead: broker and gate read one clock, but it may be stepped back between them."""
MAX_CHARS: Final = 16_384
"""Longest pass that is looked at. 64 chain entries of 100 characters each make about 9 000."""
MIN_KEY_BYTES: Final = 32
"""RFC 7518, section 3.2: a key of the size of the hash output or larger MUST be used with HS256."""

USES: Final = frozenset({"request", "connect", "channel", "spawn"})
TUNNELS: Final = frozenset({"http", "opaque"})

_TYP: Final = "outpass+jwt"
_CAPABILITIES: Final = frozenset(c.value for c in Capability)
_DENIALS: Final = {r.value: r for r in Reason if r is not Reason.ALLOWED}
_CLAIMS: Final = frozenset(("iss", "aud", "sub", "chain", "sid", "use", "cap", "dst", "jti", "iat", "exp", "tun"))
_CLAIMS_DENIAL: Final = _CLAIMS | {"deny"}
_IPV6: Final = frozenset("0123456789abcdef:.")
_NOT_IN_A_NAME: Final = frozenset("[]:/@")
_SERIAL_BOUND: Final = 1 << 63
_TIME_BOUND: Final = 1 << 53


class Pass(NamedTuple):
    """What a pass says, in the terms of the gate. `mint` and `verify` are inverses over it."""

    jail: str
    """`aud`: the jail it was issued in, `j-7d0e4c11`."""
    sub: str
    """Purl of the nearest package, `pkg:pypi/stripe@11.4.0`."""
    chain: tuple[str, ...]
    """Principals, nearest first, as in EgressRequest; may be empty."""
    versions: tuple[str | None, ...]
    """One per chain entry."""
    sid: str
    """Session of the process, `s-3f9c1a2b`."""
    use: str
    """`request`, `connect`, `channel` or `spawn`."""
    cap: str
    """A `Capability` value."""
    host: str
    """Canonical host without brackets; `*` on a spawn pass."""
    port: int
    """0 on a spawn pass."""
    serial: int
    """`jti`: 1 or more, rising over the life of one broker; what the ledger burns."""
    iat: int
    """Seconds since the epoch."""
    exp: int
    """Seconds since the epoch; not honoured at or after it."""
    tunnel: str
    """`http`: intercepted; `opaque`: not."""
    deny: Reason | None
    """Set on a denial pass: the answer is a refusal for this reason, whatever the policy says."""
    iss: str
    """The daemon, `outpass:1f2e`."""
    kid: str
    """Which of the broker's keys signed it."""


def mint(p: Pass, key: bytes) -> str:
    """Sign `p` with `key` (32 bytes or more) and return the compact JWS.

    Raises PassError(PASS_MALFORMED) for a pass that `verify` would not give back unchanged, so that a hostile package
    name can neither smuggle a claim nor pose as another version; ValueError for a short key or unequal chain/versions.
    """
    if len(key) < MIN_KEY_BYTES:
        raise ValueError(f"a pass key has at least {MIN_KEY_BYTES} bytes")
    # Put together by hand (1 µs; json's encoder takes 4). Safe because of the line after it: a quote in a name ends in
    # bad JSON, in a duplicate claim or in another pass than `p`, and each of these is refused.
    entries = [f'"{n}"' if v is None else f'"{n}@{v}"' for n, v in zip(p.chain, p.versions, strict=True)]
    host = f"[{p.host}]" if ":" in p.host else p.host
    deny = "" if p.deny is None else f',"deny":"{p.deny}"'
    text = (
        f'{{"iss":"{p.iss}","aud":"{p.jail}","sub":"{p.sub}","chain":[{",".join(entries)}],"sid":"{p.sid}",'
        f'"use":"{p.use}","cap":"{p.cap}","dst":"{host}:{p.port}","jti":"{p.serial}",'
        f'"iat":{p.iat},"exp":{p.exp},"tun":"{p.tunnel}"{deny}}}'
    )
    if _read(text, p.kid) != p:
        _malformed("the pass would not be read back as it was meant")
    signed = f"{_header(p.kid)}.{_base64(text.encode())}"
    if len(signed) > MAX_CHARS - 44:
        _malformed("the pass is too long")
    return f"{signed}.{_signature(signed, key)}"


def verify(text: str, keys: Mapping[str, bytes], *, now: float, jail: str) -> Pass:
    """Return what the pass in `text` says, or raise PassError with the reason for which it must not be honoured.

    `keys` maps key ids to keys, `now` is seconds since the epoch, `jail` is that of the listener that accepted.
    PASS_MALFORMED: not three base64url parts, or claims that no broker writes. PASS_FORGED: wrong signature, unknown
    key, more parts, any algorithm or header but ours. PASS_FOREIGN_JAIL: issued to another jail. PASS_EXPIRED: too old,
    or not valid yet.
    """
    if len(text) > MAX_CHARS or not text.isascii():
        _malformed("the pass is not of a form that a broker writes")
    parts = text.split(".")
    if len(parts) > 3:
        _forged("the pass has more than three parts")  # RFC 7516 encryption, or a second signature behind the first
    if len(parts) < 3:
        _malformed("the pass has fewer than three parts")
    header, payload, signature = parts
    kid = _kid(header)
    key = keys.get(kid)
    if key is None or len(key) < MIN_KEY_BYTES:
        _forged("the pass names a key that this broker does not have")
    # NOTE: text against text, so that a signature has exactly one spelling: base64url has spare bits at the end.
    if not hmac.compare_digest(_signature(f"{header}.{payload}", key), signature):
        _forged("the signature of the pass does not fit")
    p = _read(_unbase64(payload), kid)
    if p.jail != jail:
        raise PassError(Reason.PASS_FOREIGN_JAIL, "the pass was issued to another jail")
    if now >= p.exp:
        raise PassError(Reason.PASS_EXPIRED, "the pass has expired")
    if not now >= p.iat - LEEWAY_S:  # written so that a NaN clock refuses
        raise PassError(Reason.PASS_EXPIRED, "the pass is not valid yet")
    return p


def _read(text: str, kid: str) -> Pass:
    """The claims in `text` as a Pass; PassError(PASS_MALFORMED) for anything that `mint` would not have written.

    The passes of one chain for one host differ in three numbers only, so what stands around them is parsed once. Digits put in
    the place of digits leave JSON what it is: whatever is wrong with the text is wrong with the one that is parsed.
    """
    found = _NUMBERS.match(text, max(text.find('"jti":"'), 0))
    if found is None:
        return _parsed(text, kid)
    alike = _alike(text[: found.start()], text[found.end() :], kid)
    serial, iat, exp = map(int, found.groups())
    if not serial < _SERIAL_BOUND or not iat < exp < _TIME_BOUND:
        _malformed("a number in the pass is too large, or it ends before it begins")
    return Pass(*alike[:9], serial, iat, exp, *alike[12:])


@lru_cache(maxsize=512)
def _alike(before: str, after: str, kid: str) -> Pass:
    """A pass of which all but serial and times stand in `before` and `after`. Errors are not cached."""
    return _parsed(f'{before}"jti":"1","iat":0,"exp":1,{after}', kid)


def _parsed(text: str, kid: str) -> Pass:
    """As `_read`, from the first character to the last."""
    # No claim of ours needs an escape, so one test keeps control characters, surrogates and look-alikes out of all.
    if "\\" in text or not text.isascii() or not text.isprintable():
        _malformed("the pass holds a character that no claim may hold")
    claims = _object(text)
    keys = claims.keys()
    if keys != _CLAIMS and keys != _CLAIMS_DENIAL:
        _malformed("the pass does not hold exactly the claims that a broker writes")
    iss, jail, sub, sid = claims["iss"], claims["aud"], claims["sub"], claims["sid"]
    use, cap, dst, jti, tunnel = claims["use"], claims["cap"], claims["dst"], claims["jti"], claims["tun"]
    for value in (iss, jail, sub, sid, use, cap, dst, jti, tunnel):
        if type(value) is not str or not value:
            _malformed("a claim that is text is missing, empty or not text")
    if use not in USES or cap not in _CAPABILITIES or tunnel not in TUNNELS:
        _malformed("the pass is for a use, capability or tunnel that does not exist")
    deny = None
    if "deny" in claims:
        # A denial for a reason we do not know must not turn into a pass without one.
        code = claims["deny"]
        deny = _DENIALS.get(code) if type(code) is str else None
        if deny is None:
            _malformed("the pass is denied for a reason that does not exist")
    iat, exp = _seconds(claims["iat"]), _seconds(claims["exp"])
    if exp <= iat:
        _malformed("the pass ends before it begins")
    chain, versions = _chain(claims["chain"])
    host, port = _authority(dst)
    return Pass(jail, sub, chain, versions, sid, use, cap, host, port, _serial(jti), iat, exp, tunnel, deny, iss, kid)


def _chain(value: Any) -> tuple[tuple[str, ...], tuple[str | None, ...]]:
    """The claim's list as (names, versions), one version per name."""
    if type(value) is not list:
        _malformed("the chain is not a list")
    names: list[str] = []
    versions: list[str | None] = []
    for entry in value:
        if type(entry) is not str or not entry:
            _malformed("the chain holds something that is not a name")
        at = entry.find("@", 1)
        if at < 0:
            names.append(entry)
            versions.append(None)
        elif at + 1 < len(entry):
            names.append(entry[:at])
            versions.append(entry[at + 1 :])
        else:
            _malformed("the chain holds an empty version")
    return tuple(names), tuple(versions)


@lru_cache(maxsize=512)
def _authority(dst: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port` as (host, port), in the only spelling that `mint` writes."""
    host, colon, digits = dst.rpartition(":")
    if not colon or not host or not _decimal(digits, 65_536):
        _malformed("the destination is not host:port")
    if host[0] == "[" and host[-1] == "]" and ":" in host and _IPV6.issuperset(host[1:-1]):
        host = host[1:-1]
    elif not _NOT_IN_A_NAME.isdisjoint(host):
        _malformed("the destination is not host:port")
    return host, int(digits)


def _serial(jti: str) -> int:
    """The serial in `jti`: canonical decimal, so that one serial has one spelling."""
    if not _decimal(jti, _SERIAL_BOUND) or jti == "0":
        _malformed("the serial is not a decimal number")
    return int(jti)


def _decimal(digits: str, bound: int) -> bool:
    """Whether `digits` is canonical decimal below `bound`; the length test comes first, as int() is quadratic."""
    return 0 < len(digits) <= 19 and digits.isdecimal() and (digits[0] != "0" or digits == "0") and int(digits) < bound


def _seconds(value: Any) -> int:
    """A time claim: an int (not a bool, not a float) of seconds since the epoch, small enough for exact floats."""
    if type(value) is not int or not 0 <= value < _TIME_BOUND:
        _malformed("a time in the pass is not a whole number of seconds")
    return int(value)


@lru_cache(maxsize=16)
def _header(kid: str) -> str:
    """The protected header for `kid`, encoded."""
    return _base64(json.dumps({"alg": "HS256", "typ": _TYP, "kid": kid}, separators=(",", ":")).encode())


@lru_cache(maxsize=16)
def _kid(header: str) -> str:
    """Key id in an encoded header. Raises like `verify`; errors are not cached, and hostile headers only evict."""
    if len(header) > 512:
        _malformed("the header of the pass is too long")
    fields = _object(_unbase64(header))
    # CVE-2015-9235 and its kin (alg none, alg confusion, jku, jwk, x5u, crit): nothing in the header chooses anything
    # but one of our keys.
    if fields.keys() != {"alg", "typ", "kid"} or fields["alg"] != "HS256" or fields["typ"] != _TYP:
        _forged("the pass has a header that no broker writes")
    kid = fields["kid"]
    if type(kid) is not str:
        _forged("the pass has a header that no broker writes")
    return kid


def _signature(signed: str, key: bytes) -> str:
    """HS256 over the two encoded parts, encoded."""
    inside, outside = _begun(key)
    inner, outer = inside.copy(), outside.copy()
    inner.update(signed.encode())
    outer.update(inner.digest())
    return _base64(outer.digest())


@lru_cache(maxsize=4)
def _begun(key: bytes) -> tuple[hashlib._Hash, hashlib._Hash]:
    """The two hashes of HMAC (RFC 2104), with the key in them; OpenSSL's own sets both up again for each message."""
    block = (hashlib.sha256(key).digest() if len(key) > _BLOCK else key).ljust(_BLOCK, b"\0")
    return hashlib.sha256(block.translate(_INNER)), hashlib.sha256(block.translate(_OUTER))


_BLOCK: Final = 64
_INNER: Final = bytes(byte ^ 0x36 for byte in range(256))
_OUTER: Final = bytes(byte ^ 0x5C for byte in range(256))
_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URL: Final = bytes.maketrans(b"-_+/=", b"+/!!!")  # `!` makes the standard alphabet's own characters an error
_PADDING: Final = (b"", b"", b"==", b"=")
_LAST: Final = ("", "", "AQgw", "AEIMQUYcgkosw048")
"""What a text may end in, by its length modulo 4: characters whose spare bits are zero."""


def _base64(data: bytes) -> str:
    """Base64url without padding (RFC 7515, section 2)."""
    return binascii.b2a_base64(data, newline=False).translate(_TO_URL).rstrip(b"=").decode()


def _unbase64(text: str) -> str:
    """Strict inverse of `_base64` for UTF-8 text: no padding, no line ends, no spare bits, no other alphabet."""
    try:
        raw = text.encode().translate(_FROM_URL)
        data = binascii.a2b_base64(raw + _PADDING[len(raw) % 4], strict_mode=True)
        decoded = data.decode()
    except ValueError:  # binascii.Error and UnicodeDecodeError are both
        _malformed("the pass is not base64url")
    if len(raw) % 4 and text[-1] not in _LAST[len(raw) % 4]:
        _malformed("the pass is not base64url in its one spelling")
    return decoded


def _object(text: str) -> dict[str, Any]:
    """The one JSON object in `text`, without duplicate keys and without NaN."""
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError):
        _malformed("the pass is not JSON")
    if type(value) is not dict:
        _malformed("the pass is not a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dict of `pairs`; RFC 8259, section 4 leaves duplicate names open, and two readers must never differ."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("duplicate name")
    return fields


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _malformed(message: str) -> NoReturn:
    raise PassError(Reason.PASS_MALFORMED, message)


def _forged(message: str) -> NoReturn:
    raise PassError(Reason.PASS_FORGED, message)


_NUMBERS: Final = re.compile(r'"jti":"([1-9][0-9]{0,18})","iat":(0|[1-9][0-9]{0,15}),"exp":([1-9][0-9]{0,15}),')
_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_constant)

"""Who asks: from the header that carries a pass to a verified, burned pass that fits the request, or a refusal.

Lives here: every check of a pass that needs the request, the session or the ledger. May not live here: the pass's own form
and signature (passes/), what its holder may reach (policy/).
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Container, Mapping
from typing import Final, NamedTuple

from outpass.errors import PassError
from outpass.model import Capability
from outpass.passes import token
from outpass.passes.ledger import Ledger
from outpass.policy import names
from outpass.reasons import Reason

CONNECT_USES: Final = frozenset({"connect", "channel", "spawn"})
REQUEST_USES: Final = frozenset({"request", "spawn"})
INNER_USES: Final = frozenset({"request"})

_HTTP: Final = frozenset({Capability.HTTP.value, Capability.FETCH.value})


class Asker(NamedTuple):
    """The principal of one request, as EgressRequest wants it."""

    chain: tuple[str, ...]
    versions: tuple[str | None, ...]
    capability: str
    sid: str | None
    deny: Reason | None
    """Set by a denial pass: refused for this reason, whatever the policy says."""


UNATTRIBUTED: Final = Asker((names.UNATTRIBUTED,), (None,), Capability.HTTP.value, None, None)


def of_pass(p: token.Pass) -> Asker:
    """The asker that a verified pass names. An empty chain is `?`: somebody, but nobody knows who."""
    if not p.chain:
        return Asker((names.UNKNOWN,), (None,), p.cap, p.sid, p.deny)
    return Asker(p.chain, p.versions, p.cap, p.sid, p.deny)


def pass_in(value: bytes) -> str:
    """The pass in a Proxy-Authorization value: `Bearer PASS`, or Basic with the pass as user name (curl, git, npm).

    Raises PassError(PASS_MALFORMED); other credentials mean that something of the stack's own is configured as a proxy.
    """
    scheme, _, rest = value.partition(b" ")
    rest = rest.strip()
    try:
        if scheme.lower() == b"bearer":
            return rest.decode("ascii")
        if scheme.lower() == b"basic":
            user, _, _ = binascii.a2b_base64(rest, strict_mode=True).partition(b":")
            return user.decode("ascii")
    except ValueError:
        pass
    raise PassError(Reason.PASS_MALFORMED, "Proxy-Authorization does not carry a pass")


class Passes:
    """Verifies passes against the broker's keys, and burns the ones that are good for one use."""

    def __init__(
        self, keys: Mapping[str, bytes], ledger: Ledger, ended: Container[str], clock: Callable[[], float], iss: str
    ) -> None:
        """`ended` holds the sessions that are over; `clock` gives seconds since the epoch."""
        self._keys = keys
        self._ledger = ledger
        self._ended = ended
        self._clock = clock
        self._iss = iss

    def admit(self, text: str, *, jail: str, host: str, port: int, uses: Container[str]) -> token.Pass:
        """The pass in `text`, burned if it is good for one use only. Raises PassError with the reason otherwise.

        Burned last: a pass that is refused for its destination or use is not spent by that.
        """
        p = token.verify(text, self._keys, now=self._clock(), jail=jail)
        if p.iss != self._iss:
            raise PassError(Reason.PASS_FORGED, "the pass was issued by another daemon")
        self.still_good(p)
        if p.use not in uses or not (p.cap in _HTTP or (p.cap == Capability.SOCKET.value and uses is CONNECT_USES)):
            raise PassError(Reason.PASS_WRONG_USE, f"the pass is for {p.use} and {p.cap}")
        if p.use == "spawn":
            return p
        if (p.host, p.port) != (host, port):
            raise PassError(Reason.PASS_WRONG_DESTINATION, "the pass was issued for another destination")
        if not self._ledger.burn(p.serial):
            raise PassError(Reason.PASS_REPLAYED, "the pass was used before")
        return p

    def still_good(self, p: token.Pass) -> None:
        """Raises PassError when the session behind `p` is over, or its time: for a pass that covers a whole tunnel."""
        self.check_session(p.sid)
        if self._clock() >= p.exp:
            raise PassError(Reason.PASS_EXPIRED, "the pass has expired")

    def check_session(self, sid: str | None) -> None:
        """Raises PassError when this session is over."""
        if sid is not None and sid in self._ended:
            raise PassError(Reason.PASS_SESSION_ENDED, "the process that the pass was issued to has ended")

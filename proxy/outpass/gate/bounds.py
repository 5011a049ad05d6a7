"""How much one connection, one jail and one gate may take: every bound of the engine, with its default.

Lives here: the numbers. May not live here: keeping them. proxy/README.md, "Bounds of the gate", is this table in words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class Bounds:
    """Seconds end in `_s`, bytes in `_bytes`; the rest are counts."""

    line_bytes: int = 16 * 1024
    """Of a request target."""
    fields: int = 200
    """Header fields of a request."""
    head_s: float = 30.0
    """From the first byte of a request head to its last; for HTTP/2 of a header block, or of any frame."""
    body_s: float = 60.0
    """In which a client must send `body_bytes` of a body that it has begun, while the gate reads and no answer has come."""
    body_bytes: int = 1024
    handshake_s: float = 30.0
    """For TLS, with the client and with the origin, each."""
    first_byte_s: float = 900.0
    """From the end of a request to the head of its answer. What comes after the head may be as slow as it likes."""
    stall_s: float = 600.0
    """For which a peer may take none of the bytes that wait for it."""
    resets: int = 200
    """Streams that an HTTP/2 client may reset at once; `resets_rate` a second over time (CVE-2023-44487)."""
    resets_rate: float = 20.0
    control: int = 1000
    """SETTINGS, PING, PRIORITY, unknown and empty DATA frames at once; `control_rate` a second over time, and one more for each
    frame that carries something."""
    control_rate: float = 100.0
    connections: int = 8192
    """Of one gate; fewer where it may not open so many descriptors. A jail may have as many as are still free."""
    sweep_s: float = 1.0
    """How often deadlines are looked at."""


def of(changes: Mapping[str, Any]) -> Bounds:
    """The bounds with some of them changed. Raises ValueError for a name that is none, TypeError for what is no number."""
    if unknown := set(changes) - {f.name for f in fields(Bounds)}:
        raise ValueError(f"unknown bounds: {', '.join(sorted(unknown))}")
    return Bounds(**{name: type(getattr(Bounds(), name))(value) for name, value in changes.items()})

"""Audit records that tests make up.

Lives here: making one. May not live here: the store.
"""

from __future__ import annotations

from typing import Any, Final

from outpass.audit import record
from outpass.reasons import Reason

NOW: Final = 1_763_770_000.0


def a_record(number: int = 0, **changes: Any) -> dict[str, Any]:
    """A refusal, `number` milliseconds after NOW."""
    made = record.refusal(
        Reason.BAD_HOST, id=f"r-{number}", time_ms=int(NOW * 1000) + number, jail="j-1", source="gate", status=400
    )
    return {**made, **changes}

"""The form of the memory in which gates tell each other how many connections they have: one word of eight bytes for each.

Lives here: its size and what stands for nobody. May not live here: who reads and writes it (gate.shared, broker.memory).
"""

from __future__ import annotations

from typing import Final

MOST: Final = 64
"""Gates of one daemon."""
SIZE_BYTES: Final = MOST * 8
NOBODY: Final = 1 << 62
"""More connections than anybody has: nobody leaves one to a gate that is not there."""

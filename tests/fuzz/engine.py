"""A small coverage-guided fuzzer: mutate, run, keep what did something new; no compiler, no dependency.

Lives here: the loop, the mutations, the corpus as a file. May not live here: what is fuzzed (canonical.py, h1.py, h2.py).

An input is new when it reaches a line of the code under test that none reached before (sys.monitoring, each line reported once,
so it costs nothing after that), or when the target describes its outcome in words that were not said before.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any, Final, Protocol

CORPUS: Final = Path(__file__).parent / "corpus"
MAX_INPUT: Final = 2_048
MAX_KEPT: Final = 2_000
_TOOL: Final = 3
_WATCHED: Final = ("/outpass/", "/mitmproxy/proxy/layers/http/", "/h11/", "/h2/")


class Target(Protocol):
    """What is fuzzed."""

    name: str
    words: Sequence[bytes]
    """Pieces that mutations put in."""

    def seeds(self) -> Iterable[bytes]:
        """Inputs to start from."""

    def run(self, data: bytes) -> str:
        """Run one input; returns what happened in words, with bars between them. Raises when an invariant is broken."""


def stored(name: str) -> list[bytes]:
    """The kept corpus of a target, one input a line, escaped as Python escapes bytes."""
    path = CORPUS / f"{name}.txt"
    if not path.exists():
        return []
    return [line.encode("ascii").decode("unicode_escape").encode("latin-1") for line in path.read_text("ascii").splitlines()]


def store(name: str, inputs: Iterable[bytes]) -> None:
    """Write the corpus back, shortest first, each once."""
    CORPUS.mkdir(exist_ok=True)
    lines = sorted({_escaped(data) for data in inputs}, key=lambda line: (len(line), line))
    (CORPUS / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), "ascii")


def _escaped(data: bytes) -> str:
    return data.decode("latin-1").encode("unicode_escape").decode("ascii")


class Coverage:
    """Lines of the watched modules that were reached since the last look."""

    def __init__(self) -> None:
        self.fresh = 0

    def __enter__(self) -> Coverage:
        monitoring = sys.monitoring
        monitoring.use_tool_id(_TOOL, "outpass-fuzz")
        monitoring.register_callback(_TOOL, monitoring.events.LINE, self._line)
        monitoring.set_events(_TOOL, monitoring.events.LINE)
        return self

    def __exit__(self, *_: object) -> None:
        sys.monitoring.set_events(_TOOL, 0)
        sys.monitoring.free_tool_id(_TOOL)

    def _line(self, code: CodeType, _: int) -> Any:
        if any(part in code.co_filename for part in _WATCHED):
            self.fresh += 1
        return sys.monitoring.DISABLE

    def take(self) -> int:
        """How many lines were reached for the first time."""
        fresh, self.fresh = self.fresh, 0
        return fresh


@dataclass
class Fuzzer:
    """One run of one target."""

    target: Target
    seed: int
    kept: list[bytes] = field(default_factory=list)
    said: set[str] = field(default_factory=set)
    findings: dict[str, bytes] = field(default_factory=dict)
    """First line of what was broken → the shortest input that breaks it."""
    runs: int = 0

    def go(self, seconds: float, tell: Callable[[str], None]) -> None:
        """Fuzz for so long, then return; findings do not end it."""
        rng = random.Random(self.seed)
        with Coverage() as coverage:
            for data in [*self.target.seeds(), *stored(self.target.name)]:
                self._try(data, coverage)
            end = time.monotonic() + seconds
            told = time.monotonic()
            while (now := time.monotonic()) < end:
                for _ in range(50):
                    self._try(mutated(rng, self.kept or [b""], self.target.words), coverage)
                if now - told > 60:
                    told = now
                    tell(f"{self.runs} runs, {len(self.kept)} kept, {len(self.findings)} findings")

    def _try(self, data: bytes, coverage: Coverage) -> None:
        self.runs += 1
        try:
            words = self.target.run(data)
        except Exception as error:
            first = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"[:160]
            key = "".join("#" if c.isdigit() else c for c in first.partition("|")[0])
            if key not in self.findings or len(data) < len(self.findings[key]):
                self.findings[key] = data
                print(f"BROKEN: {key}\n  input: {data!r}", flush=True)
            coverage.take()
            return
        if (coverage.take() or words not in self.said) and len(self.kept) < MAX_KEPT:
            self.said.add(words)
            self.kept.append(data)


def mutated(rng: random.Random, corpus: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """A new input from a kept one: a few random changes, or two inputs joined."""
    data = bytearray(rng.choice(corpus))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5, 8))):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 1, 2, 4, 16)))
        match rng.randrange(8):
            case 0 | 1 | 2:
                data[at:at] = rng.choice(words)
            case 3:
                del data[at:end]
            case 4:
                data[at:end] = rng.choice(words)
            case 5:
                data[at:end] = bytes((rng.randrange(256),))
            case 6:
                data[at:at] = data[at:end] * rng.choice((1, 2, 9))
            case _:
                other = rng.choice(corpus)
                data = data[:at] + other[rng.randrange(len(other) + 1) :]
    return bytes(data[:MAX_INPUT])


def distilled(target: Target, inputs: Sequence[bytes]) -> Iterator[bytes]:
    """The shortest inputs that together still say every word that all of them say."""
    said: set[str] = set()
    for data in sorted(inputs, key=lambda i: (len(i), i)):
        try:
            words = set(target.run(data).split("|"))
        except Exception:
            continue
        if not words <= said:
            said |= words
            yield data

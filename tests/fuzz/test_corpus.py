"""Every input that a fuzzer kept, run again: cheap, and red as soon as one of the invariants of tests/fuzz breaks.

Lives here: the replay. May not live here: fuzzing (`make fuzz TARGET=canonical|h1|h2 SECONDS=3600`).
"""

from __future__ import annotations

import pytest

from tests.fuzz import engine
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_the_kept_inputs_of_each_fuzzer_break_nothing(name: str) -> None:
    target = TARGETS[name]()
    inputs = [*target.seeds(), *engine.stored(name)]
    outcomes = {target.run(data) for data in inputs}
    assert len(inputs) > 20 and len(outcomes) > 10, "a corpus that says nothing proves nothing"


def test_a_corpus_is_kept_as_text_and_read_back(monkeypatch: pytest.MonkeyPatch, tmp_path: pytest.TempPathFactory) -> None:
    monkeypatch.setattr(engine, "CORPUS", tmp_path)
    engine.store("x", [b"\r\n\0\xff\\n", b"a", b"a"])
    assert engine.stored("x") == [b"a", b"\r\n\0\xff\\n"]

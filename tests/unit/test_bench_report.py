"""The tables that `make bench` writes: ratios the right way round, and nothing left out in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.bench import report

MACHINE = {"processor": "p", "cores": 2, "memory_gib": 4, "kernel": "6", "python": "3", "load": [0.1], "load_after": [0.2]}
RESULTS: dict[str, Any] = {
    "when": "2026-11-22",
    "machine": MACHINE,
    "peers": {
        "tunnels": {
            "bytes": {
                "outpass": {"cpu_s_per_gb": 0.2, "mb_s": 1000.0},
                "mitmdump": {"cpu_s_per_gb": 1.0, "mb_s": 250.0},
                "Go": {"cpu_s_per_gb": 0.1, "mb_s": 2000.0},
                "proxy.py": {"failed": "TimeoutError: | slow"},
            }
        },
        "absent": {"squid": "squid is not installed"},
    },
}


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    monkeypatch.setattr(report, "HERE", tmp_path)
    report.write(RESULTS)
    return (tmp_path / "PEERS.md").read_text(), (tmp_path / "peers.svg").read_text()


def test_what_is_better_and_what_is_worse_is_said(written: tuple[str, str]) -> None:
    text, _ = written
    assert "- CPU, s/GB: better than mitmdump (0.2 ×); worse than Go (2 ×)" in text
    assert "- MB/s: better than mitmdump (4 ×); worse than Go (0.5 ×)" in text, "more is better"


def test_a_peer_that_failed_or_is_absent_is_named(written: tuple[str, str]) -> None:
    text, _ = written
    assert "| proxy.py | – | – (TimeoutError: / slow) |" in text
    assert "- squid: not measured: squid is not installed" in text


def test_a_bar_that_is_not_held_is_said_as_plainly_as_one_that_is(written: tuple[str, str]) -> None:
    text, _ = written
    assert "| tunnel, CPU a GB | mitmdump | 0.2 × | ≤ 0.15 × | **no** |" in text
    assert "| tunnel, MB/s | mitmdump | 4 × | ≥ 4.0 × | yes |" in text
    assert "| resident when idle, MiB | – | not measured | | |" in text


def test_the_plot_has_a_bar_for_each_figure(written: tuple[str, str]) -> None:
    _, plot = written
    assert plot.count("<rect") == 1 + 3 and plot.count("#0a7") == 1

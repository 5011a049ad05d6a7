"""Runs policies/cases: what every shipped policy must allow and refuse, and why."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from outpass import files
from outpass.policy.compiled import compile_policy
from outpass.policy.decide import decide
from tests.support.policies import NOW, ask

POLICIES = files.policies()
FILES = sorted((POLICIES / "cases").glob("*.yaml"))
CASES = [(path, case) for path in FILES for case in yaml.safe_load(path.read_text())["cases"]]


def load(path: Path, tmp_path: Path) -> files.Loaded:
    said: dict[str, Any] = yaml.safe_load(path.read_text())
    source = path.parent / said["policy"] if "policy" in said else tmp_path / "outpass.yaml"
    if "with" in said:
        source.write_text(said["with"])
    env = {"HOME": str(tmp_path), "XDG_CONFIG_DIRS": str(tmp_path / "none")}
    if "pip_index" in said:
        env |= {"PIP_INDEX_URL": said["pip_index"], "UV_DEFAULT_INDEX": said["pip_index"]}
    return files.load(files.Source(source), env=env, now=NOW)


@pytest.mark.parametrize("path, case", CASES, ids=[f"{p.stem}: {c['who']} asks {c['asks']}" for p, c in CASES])
def test_case(path: Path, case: dict[str, Any], tmp_path: Path) -> None:
    assert set(case) <= {"who", "asks", "to", "at", "gets", "because"}
    moment = datetime(case["at"].year, case["at"].month, case["at"].day, tzinfo=UTC).timestamp() if "at" in case else NOW
    decision = decide(compile_policy(load(path, tmp_path).policy), ask(case["who"], case["asks"], to=case.get("to")), now=moment)
    assert (decision.verdict.value, decision.reason.value) == (case["gets"], case["because"])


@pytest.mark.parametrize("path", sorted((POLICIES / "examples").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_example_is_clean_and_has_cases(path: Path, tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "XDG_CONFIG_DIRS": str(tmp_path / "none"), "PIP_INDEX_URL": "https://packages.example.com/"}
    warnings = [str(w) for w in files.load(files.Source(path), env=env, now=NOW).warnings]
    assert all("covers every name below" in w for w in warnings), warnings
    assert (POLICIES / "cases" / path.name).exists()


def test_every_preset_stands_in_a_case() -> None:
    text = "".join(path.read_text() for path in FILES)
    assert all(f"preset:{path.stem}" in text for path in (POLICIES / "presets").glob("*.yaml"))

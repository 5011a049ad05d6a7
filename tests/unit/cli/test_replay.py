"""`outpass replay` as a person and as a script use it: the real command on a real log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from outpass.audit import record, store
from outpass.policy import decide
from tests.support.policies import NOW, ask, compiled

POLICY = 'version: 1\npackages:\n  a: {allow: [network:http], http: ["https://a.example/**"]}\n'


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A log of three allowed requests, one denied, and one that cannot be judged again."""
    path = tmp_path / "audit.db"
    log = store.Store(path, now=0.0)
    for number, url in enumerate(("/1", "/2", "/3", "x", "/long")):
        request = ask("a@1.0", f"GET https://a.example{url}" if url != "x" else "GET https://b.example/")
        made = record.decision(
            decide.decide(compiled(POLICY), request, now=NOW), id=f"r-{number}", time_ms=int(NOW * 1000), jail="j-1",
            source="gate", status=None, sid=None, dialled=None, override=False, query=None,
        )  # fmt: skip
        log.append({**made, "path": "/lon…"} if url == "/long" else made)
    log.close()
    return path


def outpass_replay(state: Path, policy: str, *args: str) -> subprocess.CompletedProcess[str]:
    file = state.with_name("p.yaml")
    file.write_text(policy)
    command = [sys.executable, "-m", "outpass", "replay", "--state", str(state), "--policy", str(file), *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "NO_COLOR": "1"})


def test_the_policy_that_decided_says_nothing_else(state: Path) -> None:
    done = outpass_replay(state, POLICY)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "4 decisions judged again" in done.stderr and "0 differ" in done.stderr and "1 cannot be judged" in done.stderr


def test_a_narrower_policy_says_what_it_would_deny_and_by_what_line_that_is_mended(state: Path) -> None:
    done = outpass_replay(state, POLICY.replace("a.example/**", "a.example/1"))
    assert done.returncode == 1, done.stderr
    assert "a@1.0  GET https://a.example/2  2 times" in done.stdout
    assert "was allow (allowed), would be deny (no_rule)" in done.stdout
    assert "2 differ" in done.stderr


def test_a_script_gets_one_document(state: Path) -> None:
    done = outpass_replay(state, POLICY.replace("a.example", "b.example"), "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["schema"]) == (1, "outpass.replay/1")
    assert (found["judged"], found["skipped"], found["differ"]) == (4, 1, 4)
    assert [(one["count"], one["record"]["host"], one["now"]["verdict"]) for one in found["differences"]] == [
        (3, "a.example", "deny"),
        (1, "b.example", "allow"),
    ]


def test_a_policy_that_is_none_is_bad_input(state: Path) -> None:
    done = outpass_replay(state, "version: 9\n")
    assert done.returncode == 2 and "p.yaml:1" in done.stderr and "Traceback" not in done.stderr

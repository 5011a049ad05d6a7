"""`outpass test` on case files, right, wrong, and none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from outpass import cases
from outpass.errors import PolicyError

POLICY = 'version: 1\npackages:\n  a: {allow: [network:http], http: [{url: "https://a.example/**", private: [10.0.0.0/8], expires: 2027-06-30}]}\n'
CASES = """
policy: outpass.yaml
cases:
  - {who: "a@1.0 > app", asks: "GET https://a.example/x", to: [10.0.0.1, 93.184.215.14], at: 2027-01-01, gets: allow}
  - {who: a, asks: "GET https://a.example/x", at: 2027-07-02, gets: deny, because: expired}
  - {who: a, asks: "tcp://db.internal:5432", gets: deny, because: no_capability}
"""


def outpass_test(where: Path, text: str, *args: str) -> subprocess.CompletedProcess[str]:
    (where / "outpass.yaml").write_text(POLICY)
    (where / "c.yaml").write_text(text)
    command = [sys.executable, "-m", "outpass", "test", *args, str(where / "c.yaml")]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "NO_COLOR": "1"})


def test_cases_that_hold_are_counted(tmp_path: Path) -> None:
    done = outpass_test(tmp_path, CASES)
    assert (done.returncode, done.stderr) == (0, "outpass: 3 cases, 0 wrong\n")


def test_a_case_that_does_not_hold_is_shown_with_its_place_and_what_the_policy_says(tmp_path: Path) -> None:
    done = outpass_test(tmp_path, CASES.replace("a.example/x", "b.example/x", 1))
    assert done.returncode == 1
    assert "c.yaml:4:" in done.stderr and "should get allow, gets deny (no_rule)" in done.stderr
    assert done.stderr.endswith("outpass: 3 cases, 1 wrong\n")


def test_another_reason_is_another_answer(tmp_path: Path) -> None:
    done = outpass_test(tmp_path, CASES.replace("because: expired", "because: no_rule"))
    assert done.returncode == 1 and "should get deny (no_rule), gets deny (expired)" in done.stderr


def test_another_policy_can_be_tested(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("version: 1\npackages: {}\n")
    done = outpass_test(tmp_path, CASES, "--policy", str(tmp_path / "other.yaml"))
    assert done.returncode == 1 and "3 cases, 2 wrong" in done.stderr


@pytest.mark.parametrize(
    "text, message",
    [
        ("[]", "a case file is a mapping"),
        ("cases: [3]", "c.yaml:1:9: a case is a mapping"),
        ("cases: [{who: a, asks: b}]", "does not say 'gets'"),
        ("cases: [{who: a, asks: b, gets: maybe}]", "'maybe' is none of allow, deny, would_deny"),
        ("cases: [{who: a, asks: b, gets: deny, because: so}]", "'so' is none of"),
        ("cases: [{who: a, asks: b, gets: deny, att: 1}]", "unknown key 'att'"),
        ("cases: [{who: a, asks: b, gets: deny, at: soon}]", "'soon' is not a date"),
        ("case: []", "a case file is a mapping"),
    ],
)
def test_a_file_that_is_none_says_where_and_why(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(PolicyError) as raised:
        cases.read(file)
    assert message in str(raised.value)


def test_a_question_that_is_none_is_bad_input(tmp_path: Path) -> None:
    done = outpass_test(tmp_path, 'policy: outpass.yaml\ncases: [{who: a, asks: "GET nothing", gets: deny}]')
    assert done.returncode == 2 and "Traceback" not in done.stderr
    done = outpass_test(tmp_path, "cases: {")
    assert done.returncode == 2 and "c.yaml:2" in done.stderr

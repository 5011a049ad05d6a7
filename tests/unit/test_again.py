"""Which failures get a second attempt, and which never do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.again import MOST, Failure, failures, worth_another

E2E = Failure("tests.e2e.test_run", "test_a", "AssertionError: assert 1 == 2")
LATE = "Failed: Timeout (>120.0s) from pytest-timeout."


@pytest.mark.parametrize(
    ("failed", "again"),
    [
        ([], False),
        ([E2E], True),
        ([E2E, Failure("tests.integration.gate.test_b", "b", "x"), Failure("tests.unit.broker.test_c.TestC", "c", "x")], True),
        ([Failure("tests.claims.test_jail_escapes", "a deadline", LATE)], True),
        ([Failure("tests.claims.test_jail_escapes", "a set-up", "")], True),
        ([E2E, Failure("tests.claims.test_jail_escapes", "it got through", "AssertionError: assert ['GET /'] == []")], False),
        ([Failure("tests.unit.policy.test_decide", "a", "AssertionError")], False),
        ([Failure("tests.unit.policy.test_decide", "a", LATE)], False),
        ([Failure("tests.property.test_policy", "a", LATE)], False),
        ([Failure("tests.test_docs", "a", "AssertionError")], False),
        ([E2E] * (MOST + 1), False),
    ],
)
def test_only_a_few_tests_of_real_processes_are_tried_again(failed: list[Failure], again: bool) -> None:
    assert worth_another(failed) is again


def test_failures_are_read_from_what_pytest_itself_reports(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "@pytest.fixture\ndef broken(): raise OSError('no')\n"
        "def test_good(): pass\n"
        "def test_bad(): assert 1 == 2\n"
        "def test_set_up(broken): pass\n"
    )
    report = tmp_path / "junit.xml"
    assert pytest.main(["-q", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", f"--junitxml={report}", str(tmp_path)]) == 1
    bad, broken = failures(report)
    assert (bad.name, bad.message) == ("test_bad", "assert 1 == 2")
    assert (broken.name, broken.message) == ("test_set_up", "")


def test_a_run_without_a_report_is_never_forgiven(tmp_path: Path) -> None:
    assert not worth_another(failures(tmp_path / "none.xml"))

"""`make top60`: its verdicts, its policy and its table, without running anything."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.policies import NOW, ask, compiled
from tests.top60.running import GOOD, Ran, Result, judged
from tests.top60.smoke import Smoke, policy, smoke
from tests.top60.table import charged_to, written


@smoke("botoed", 7, "lists", charged="core", family=("botoed",), says="b42")
def BOTOED(host: str) -> Any:
    return host


@smoke("plain", 3, "asks", kind="socket", server="redis", port=6379, note="it is known | not to")
def PLAIN(host: str) -> Any:
    return host


def record(verdict: str, host: str, *chain: str, kind: str = "decision") -> dict[str, Any]:
    return {"kind": kind, "verdict": verdict, "host": host, "chain": list(chain)}


HOST, OTHER = BOTOED.host, BOTOED.elsewhere
ALLOWED = record("allow", HOST, "core@1", "botoed@2", "app")
DENIED = record("deny", OTHER, "core@1", "botoed@2", "app")
SAID = [[True, "['b42']"], [False, "403"]]


@pytest.mark.parametrize(
    ("sentence", "ran", "records", "verdict"),
    [
        ("as it should be", Ran(BOTOED, SAID, True, False), [ALLOWED, DENIED], GOOD),
        ("another answer", Ran(BOTOED, [[True, "[]"], SAID[1]], True, False), [ALLOWED, DENIED], "does not work: []"),
        ("an error", Ran(BOTOED, [[False, "b42"], SAID[1]], True, False), [record("deny", HOST, "app")], "does not work: b42; denied to app"),
        ("not arrived", Ran(BOTOED, SAID, False, False), [ALLOWED, DENIED], "nothing arrived at the server"),
        ("nobody charged", Ran(BOTOED, SAID, True, False), [DENIED], "charged to nobody"),
        ("somebody else too", Ran(BOTOED, SAID, True, False), [ALLOWED, record("allow", HOST, "app"), DENIED], "charged to app, core"),
        ("a part denied", Ran(BOTOED, SAID, True, False), [ALLOWED, record("deny", HOST, "x@1"), DENIED], "its own host is denied to x"),
        ("got elsewhere", Ran(BOTOED, SAID, True, True), [ALLOWED, DENIED], "the other host was reached"),
        ("not refused", Ran(BOTOED, SAID, True, False), [ALLOWED], "the other host: no refusal recorded, it was told 403"),
        ("refused to another", Ran(BOTOED, SAID, True, False), [ALLOWED, record("deny", OTHER)], "the other host is denied to unattributed"),
        ("ends do not count", Ran(BOTOED, SAID, True, False), [ALLOWED, record("allow", HOST, "y", kind="close"), DENIED], GOOD),
    ],
)  # fmt: skip
def test_a_row_is_good_only_if_everything_is(sentence: str, ran: Ran, records: list[dict[str, Any]], verdict: str) -> None:
    assert judged(ran, records) == verdict, sentence


def test_the_policy_gives_each_principal_its_own_hosts_and_excuses_its_family() -> None:
    made = compiled(policy([BOTOED, PLAIN]).replace("include:", "# include:"))
    url = f"GET https://{HOST}/x"
    cases = {
        ("core > botoed > app", url): "allowed",
        ("core > other > app", url): "no_capability",
        ("botoed > app", url): "no_capability",
        ("core > app", f"GET https://{OTHER}/x"): "no_rule",
        ("plain > app", "tcp://plain.example.com:6379"): "allowed",
        ("plain > app", "tcp://plain.example.com:6380"): "no_rule",
    }
    from outpass.policy.decide import decide

    assert {asked: decide(made, ask(*asked), now=NOW).reason for asked in cases} == cases


def test_the_table_has_versions_families_and_numbered_reasons() -> None:
    results = [Result(BOTOED, GOOD, ("core", "botoed", "app")), Result(PLAIN, "does not work: x")]
    text = written(results, {"botoed": "1.2"}, "3.13", "2026-11-22")
    assert "on 2026-11-22" in text and "1 of 2 rows are good, on Python 3.13" in text
    lines = text.splitlines()
    assert lines[-4:] == [
        "| 3 | plain |  | asks | itself | no (1) |",
        "| 7 | botoed | 1.2 | lists | `core`, via `botoed` | ok |",
        "",
        "1. it is known | not to",
    ]
    assert not results[0].bad and not results[1].bad and Result(BOTOED, "charged to nobody").bad


def test_every_row_is_complete() -> None:
    from tests.top60 import clouds, others, vendors, web, wires
    from tests.top60.smoke import rows_of

    rows: list[Smoke] = [row for module in (clouds, others, vendors, web, wires) for row in rows_of(module)]
    assert len(rows) >= 60 and len({row.package for row in rows}) == len(rows)
    for row in rows:
        assert row.rank and row.does and row.says and charged_to(row), row.package
        compile(row.source, row.package, "exec")

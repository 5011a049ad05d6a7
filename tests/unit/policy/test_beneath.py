"""The operator's policy over that of a run: it takes away, and never grants; its modes win."""

from __future__ import annotations

from pathlib import Path

import pytest

from outpass import files
from outpass.errors import PolicyError
from outpass.model import Decision, EgressRequest
from outpass.policy import decide

OWN = """version: 1
mode: MODE
packages:
  app: {allow: [network:http], http: ["https://a.test/", "https://b.test/"]}
  left-pad: {mode: audit, allow: [network:http], http: ["https://a.test/"]}
"""


def judged(
    tmp_path: Path, above: str, host: str, *, mode: str = "enforce", who: str = "app", given: str | None = None
) -> Decision:
    own, top = tmp_path / "own.yaml", tmp_path / "top.yaml"
    own.write_text(OWN.replace("MODE", mode))
    top.write_text("version: 1\n" + above)
    policy = files.load(files.Source(own, mode=given, above=top), env={}).policy
    request = EgressRequest("network:http", (who,), (None,), "https", host, 443, "GET", "/")
    return decide.decide(decide.compile(policy), request, now=0.0)


@pytest.mark.parametrize(
    ("sentence", "above", "host", "verdict", "reason"),
    [
        ("nothing said, nothing changed", "", "a.test", "allow", "allowed"),
        ("within its ceiling", "ceiling: {http: ['https://a.test/']}", "a.test", "allow", "allowed"),
        ("above its ceiling", "ceiling: {http: ['https://a.test/']}", "b.test", "deny", "outside_ceiling"),
        ("what it denies a package", "packages: {app: {deny: {http: ['https://b.test/']}}}", "b.test", "deny", "denied_by_rule"),
        ("what it denies to all", "packages: {'*': {deny: {http: ['https://b.test/']}}}", "b.test", "deny", "denied_by_rule"),
        ("its ceiling grants nothing", "ceiling: {http: ['https://c.test/']}", "c.test", "deny", "no_rule"),
    ],
)
def test_its_ceilings_and_denies_hold_too(
    sentence: str, above: str, host: str, verdict: str, reason: str, tmp_path: Path
) -> None:
    found = judged(tmp_path, above, host)
    assert (found.verdict.value, found.reason.value) == (verdict, reason), sentence


@pytest.mark.parametrize(
    ("sentence", "above", "own", "given", "who", "verdict"),
    [
        ("it lets a run audit that enforces", "mode: audit", "enforce", None, "app", "would_deny"),
        ("it makes a run enforce that audits", "mode: enforce", "audit", None, "app", "deny"),
        ("run --audit does not get round it", "mode: enforce", "enforce", "audit", "app", "deny"),
        ("nor does a package's own mode", "mode: enforce", "enforce", None, "left-pad", "deny"),
        ("it may say so of one package", "packages: {app: {mode: audit}}", "enforce", None, "app", "would_deny"),
        ("and of one package against its own", "packages: {left-pad: {mode: enforce}}", "enforce", None, "left-pad", "deny"),
        ("where it says nothing, the run's counts", "", "audit", None, "app", "would_deny"),
        ("and a package's", "", "enforce", None, "left-pad", "would_deny"),
    ],
)
def test_its_modes_win(sentence: str, above: str, own: str, given: str | None, who: str, verdict: str, tmp_path: Path) -> None:
    found = judged(tmp_path, above, "other.test", mode=own, who=who, given=given)
    assert found.verdict.value == verdict, sentence


@pytest.mark.parametrize("grant", ["allow: [network:http]", "allow: [network:http], http: ['https://a.test/']"])
def test_one_that_grants_is_an_error_at_its_line(grant: str, tmp_path: Path) -> None:
    with pytest.raises(PolicyError) as error:
        judged(tmp_path, f"packages:\n  app: {{{grant}}}\n", "a.test")
    assert [(Path(f.place.file).name, f.place.line) for f in error.value.faults] == [("top.yaml", 3)]

"""The soak in its shortest form: everything that `make soak MINUTES=30` does, for some seconds, with all of its checks; and that
the checks see what they are there to see.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from outpass.audit import record
from outpass.policy import decide
from tests.soak.driver import Soak
from tests.soak.judge import Asked, judge
from tests.support.policies import NOW, ask, compiled

TEXT = (
    'packages: {app: {allow: [network:http], http: ["https://h1.soak.test/**"], deny: {http: ["https://h1.soak.test/no/**"]}}}\n'
)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_short_soak_breaks_nothing(tmp_path: Path) -> None:
    verdict = Soak(tmp_path, print, kinds=("httpx2", "aiohttp", "websockets", "grpc", "curl")).run(6)
    assert not verdict.broken, verdict.broken
    assert verdict.figures["arrived"] > 10 and verdict.figures["replayed"] > 10
    assert verdict.figures["chaos"]["daemon killed"] == 1


def _record(url: str, **changes: Any) -> dict[str, Any]:
    decision = decide.decide(compiled(TEXT), ask("app", f"GET {url}"), now=NOW)
    made = record.decision(
        decision, id="r", time_ms=int(NOW * 1000), jail="j", source="gate", status=None, sid=None, dialled=None, override=False, query=None
    )  # fmt: skip
    return {**made, **changes}


def _broken(asked: list[Asked], arrived: list[tuple[str, str, str]], records: list[dict[str, Any]], *kills: float) -> str:
    policies = {compiled(TEXT).digest: compiled(TEXT)}
    return " ".join(judge(asked, arrived, records, policies, kills).broken)


def test_the_verdict_sees_what_must_not_be() -> None:
    fine, bad = ("h1.soak.test", "GET", "/ok/1"), ("h1.soak.test", "GET", "/no/1")
    good = _record("https://h1.soak.test/ok/1")
    asked = Asked(100.0, 100.1, fine, "200")
    assert _broken([asked], [fine], [good]) == ""
    assert "answers without a record" in _broken([asked], [], [])
    assert "at an origin without a record" in _broken([asked], [fine], [])
    assert _broken([asked], [fine], [], 100.2) == "", "a gate that was killed may take a record with it"
    assert "every policy denies" in _broken([asked], [bad], [], 100.2), "but never lets through what policy denies"
    forged = _record("https://h1.soak.test/no/1", verdict="allow", reason="allowed")
    assert "an origin got what replay denies" in _broken([asked], [bad], [good, forged])
    assert "replay differently" in _broken([asked], [], [good, forged])
    assert "never in force" in _broken([asked], [fine], [good, {**good, "digest": "0" * 16}])
    assert "waited in vain" in _broken([Asked(0.0, 30.0, fine, "ReadTimeout")], [], [good])

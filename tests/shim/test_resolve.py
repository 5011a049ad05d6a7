"""The golden messages of `resolve`, on the shim's side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

VECTORS = json.loads((Path(__file__).parents[2] / "client_shim" / "vectors" / "resolve.json").read_text())


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Any:
    from outpass_shim import _session

    monkeypatch.setattr(_session, "_sid", "s-1")
    monkeypatch.setattr(_session, "principals", lambda _: ("psycopg", "app"))
    return _session


@pytest.mark.parametrize("case", VECTORS["replies"], ids=lambda c: str(c["reply"]))
def test_replies_are_read_as_written(session: Any, monkeypatch: pytest.MonkeyPatch, case: dict[str, Any]) -> None:
    sent = []

    def ask(_: str, packet: bytes) -> bytes:
        sent.append(json.loads(packet))
        return json.dumps(case["reply"]).encode()

    monkeypatch.setattr(session._wire, "ask", ask)
    chain, address, name, refusal = session.resolve("db.internal", 5432)
    assert sent == [VECTORS["requests"][0]["message"]] and chain == ("psycopg", "app")
    assert (address, name) == (case["address"], case["name"])
    assert (list(refusal) if refusal else None) == case["refusal"]


@pytest.mark.parametrize("case", VECTORS["connected"], ids=lambda c: c["what"])
def test_connected_is_said_as_written(session: Any, monkeypatch: pytest.MonkeyPatch, case: dict[str, Any]) -> None:
    sent = []
    monkeypatch.setattr(session._wire, "ask", lambda _, packet: sent.append(json.loads(packet)) or b"{}")
    session.connected(tuple(case["client"]), tuple(case["server"]))
    assert sent == [case["message"]]


def test_a_broker_that_is_gone_does_not_fail_the_connection(session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_: str, _packet: bytes) -> bytes:
        raise session._wire.Gone("gone")

    monkeypatch.setattr(session._wire, "ask", gone)
    session.connected(("198.18.0.7", 1), ("198.18.0.7", 2))

"""The golden messages of `resolve`, read by the broker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from outpass.broker import hello

VECTORS = json.loads((Path(__file__).parents[3] / "client_shim" / "vectors" / "resolve.json").read_text())


@pytest.mark.parametrize("case", VECTORS["requests"], ids=lambda c: c["what"])
def test_messages_are_read_as_written(case: dict[str, Any]) -> None:
    found = hello.read_lookup(case["message"])._asdict()
    assert {k: list(v) if isinstance(v, tuple) else v for k, v in found.items()} == case["read"]


@pytest.mark.parametrize("case", VECTORS["refused"], ids=lambda c: c["what"])
def test_what_is_no_message_is_refused(case: dict[str, Any]) -> None:
    with pytest.raises(hello.Refused) as refused:
        hello.read_lookup(case["message"])
    assert refused.value.reason.value == case["error"]


@pytest.mark.parametrize("case", VECTORS["connected"], ids=lambda c: c["what"])
def test_connected_is_read_as_written(case: dict[str, Any]) -> None:
    found = hello.read_connected(case["message"])._asdict()
    assert {k: list(v) for k, v in found.items()} == case["read"]


@pytest.mark.parametrize("case", VECTORS["connected_refused"], ids=lambda c: c["what"])
def test_what_is_no_connection_is_refused(case: dict[str, Any]) -> None:
    with pytest.raises(hello.Refused) as refused:
        hello.read_connected(case["message"])
    assert refused.value.reason.value == "bad_request"

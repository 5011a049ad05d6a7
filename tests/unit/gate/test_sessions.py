"""What is kept of handshakes: for whom, how many, how long."""

from __future__ import annotations

import datetime
from typing import Any

from outpass.broker import keys
from outpass.gate.ca import LeafStore
from outpass.gate.engine.options import CIPHERS
from outpass.gate.sessions import MAX_CONTEXTS, MAX_SESSIONS, SESSION_S, Contexts, Sessions

NOW = datetime.datetime(2026, 11, 22, tzinfo=datetime.UTC)
KEYS = keys.make(NOW)
ONE: Any = object()


class Clock:
    """Stands still until it is moved."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_context_is_for_one_party_one_name_and_one_leaf() -> None:
    contexts = Contexts(CIPHERS)
    store = LeafStore(KEYS.ca_key, KEYS.ca_cert, lambda: NOW)
    leaf = store.leaf("api.test")
    first = contexts.get("a", "api.test", leaf)
    assert contexts.get("a", "api.test", leaf) is first
    assert contexts.get("b", "api.test", leaf) is not first
    assert contexts.get("a", "b.test", store.leaf("b.test")) is not first
    renewed = LeafStore(KEYS.ca_key, KEYS.ca_cert, lambda: NOW).leaf("api.test")
    second = contexts.get("a", "api.test", renewed)
    assert second is not first and contexts.get("a", "api.test", renewed) is second, "a leaf that was renewed is served"


def test_contexts_are_bounded() -> None:
    contexts = Contexts(CIPHERS)
    leaf = LeafStore(KEYS.ca_key, KEYS.ca_cert, lambda: NOW).leaf("api.test")
    first, kept = contexts.get(0, "api.test", leaf), contexts.get("kept", "api.test", leaf)
    for n in range(1, MAX_CONTEXTS):
        contexts.get(n, "api.test", leaf)
        assert contexts.get("kept", "api.test", leaf) is kept
    assert contexts.get(0, "api.test", leaf) is not first, "the least recently used went"
    assert len(contexts._kept) == MAX_CONTEXTS


def test_a_session_is_given_out_once() -> None:
    sessions = Sessions(Clock())
    sessions.keep("a", ONE, 100.0)
    assert sessions.take("b") is None
    assert sessions.take("a") == (ONE, 100.0)
    assert sessions.take("a") is None


def test_a_session_is_as_old_as_the_check_of_its_certificate() -> None:
    clock = Clock()
    sessions = Sessions(clock)
    clock.now = 100.0 + SESSION_S - 0.001
    sessions.keep("a", ONE, 100.0)
    assert sessions.take("a") == (ONE, 100.0)
    sessions.keep("a", ONE, 100.0)
    clock.now = 100.0 + SESSION_S
    assert sessions.take("a") is None, "its certificate must be seen again, however often it was resumed"


def test_sessions_are_bounded() -> None:
    sessions = Sessions(Clock())
    for n in range(MAX_SESSIONS + 1):
        sessions.keep(n, ONE, 100.0)
    assert sessions.take(0) is None and sessions.take(1) is not None and sessions.take(MAX_SESSIONS) is not None

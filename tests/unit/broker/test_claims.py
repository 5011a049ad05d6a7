"""Words about connections: each counts once, for the connection that it was said of."""

from __future__ import annotations

import pytest

from outpass.broker.claims import KEPT_S, MAX_KEPT, Claims, Ends

ONE = Ends("j-1", ("198.18.0.7", 40112), ("198.18.0.7", 5432))
OTHER = ONE._replace(jail="j-2")


@pytest.fixture
def now() -> list[float]:
    return [0.0]


@pytest.fixture
def claims(now: list[float]) -> Claims:
    return Claims(lambda: now[0])


def test_a_word_before_the_question_answers_it_once(claims: Claims) -> None:
    claims.say(ONE, "s-1")
    assert claims.ask(OTHER) is None, "another jail has the same addresses"
    assert claims.ask(ONE) == "s-1"
    assert claims.ask(ONE) is None and claims.settle(ONE) is None


def test_a_word_while_it_is_looked_for_answers_it_too(claims: Claims) -> None:
    assert claims.ask(ONE) is None
    claims.say(ONE, "s-1")
    assert claims.settle(ONE) == "s-1"
    assert claims.ask(ONE) is None


def test_a_word_after_the_answer_does_not_wait_for_the_next_connection(claims: Claims) -> None:
    assert claims.ask(ONE) is None and claims.settle(ONE) is None
    claims.say(ONE, "s-1")
    assert claims.ask(ONE) is None, "it may be another process's"


def test_after_a_late_word_the_next_connection_is_an_ordinary_one(claims: Claims) -> None:
    assert claims.ask(ONE) is None and claims.settle(ONE) is None
    claims.say(ONE, "s-1")
    claims.say(ONE, "s-2")
    assert claims.ask(ONE) == "s-2"


def test_words_and_questions_are_forgotten(claims: Claims, now: list[float]) -> None:
    claims.say(ONE, "s-1")
    now[0] += KEPT_S + 1
    assert claims.ask(ONE) is None and claims.settle(ONE) is None
    now[0] += KEPT_S + 1
    claims.say(ONE, "s-1")
    assert claims.ask(ONE) == "s-1"


def test_neither_table_grows_without_end(claims: Claims) -> None:
    for port in range(2 * MAX_KEPT):
        claims.say(ONE._replace(client=("198.18.0.7", port)), "s-1")
        claims.ask(OTHER._replace(client=("198.18.0.7", port)))
    assert claims.ask(ONE._replace(client=("198.18.0.7", 1))) is None, "the oldest are forgotten"
    assert len(claims._said) <= MAX_KEPT and len(claims._asked) <= MAX_KEPT

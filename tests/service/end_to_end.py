"""`make service`: a FastAPI service with SQLAlchemy, psycopg, boto3, stripe, openai and sentry-sdk behind `outpass run`.

Lives here: what a team sees of it: answers, the log, a refusal with its reason. May not live here: the service (app/), how it
is started (world.py). Not part of `make test`: it has a virtualenv of its own and wants a PostgreSQL.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.service.upstreams import ELSEWHERE, MODEL, RATES, S3, SENTRY, STRIPE, Upstreams
from tests.service.world import DATABASE, SERVER, Shop, database, schema, shop, url
from tests.support.jailed import Identity, identities, impossible
from tests.support.waiting import until

TEA = {"item": "tea", "cents": 350}
pytestmark = pytest.mark.skipif(not database(), reason=f"no PostgreSQL on {SERVER[0]}:{SERVER[1]}")
STACK = ("sentry-sdk", "fastapi", "uvicorn", "click", "app")
CHARGED = {
    RATES: ("app",),
    STRIPE: ("stripe", "app"),
    S3: ("botocore", "sentry-sdk", "app"),
    MODEL: ("openai", "sentry-sdk", "app"),
    SENTRY: STACK,
    DATABASE: ("psycopg", "sqlalchemy", "app"),
}
"""Whose each call is, nearest first: one host for each."""


class Day(NamedTuple):
    """The service was started, asked everything, and ended."""

    shop: Shop[Upstreams]
    answers: dict[str, tuple[int, bytes]]
    said: str


@pytest.fixture(scope="module", params=identities())
def who(request: pytest.FixtureRequest) -> Identity:
    found: Identity = request.param
    if why := impossible(found.uid):
        pytest.skip(f"no jail is possible here for {found.name}: {why}")
    return found


@pytest.fixture(scope="module")
def day(who: Identity) -> Iterator[Day]:
    with shop(who.uid, Upstreams()) as made:
        with made.served() as served:
            answers = {
                "quote": served.ask("/quote"),
                "rates": served.ask("/rates"),
                "order": served.ask("/orders", TEA),
                "again": served.ask("/orders/1"),
                "receipt": served.ask("/orders/1/receipt"),
                "question": served.ask("/ask", {"text": "Is it hot?"}),
                "broken": served.ask("/broken"),
            }
            until("Sentry is not told", lambda: bool(made.upstreams.events))  # its thread has two seconds at the end
        yield Day(made, answers, served.said())


def names(chain: list[str]) -> tuple[str, ...]:
    return tuple(entry.partition("@")[0] for entry in chain)


def test_every_endpoint_answers_from_inside_the_jail(day: Day) -> None:
    assert {name: status for name, (status, _) in day.answers.items()} == {
        "quote": 200, "rates": 200, "order": 201, "again": 200, "receipt": 200, "question": 200, "broken": 500,
    }, day.said  # fmt: skip
    assert json.loads(day.answers["again"][1]) == {"id": 1, **TEA, "payment": "pi_1"}, "kept in PostgreSQL, paid with Stripe"
    assert json.loads(day.answers["receipt"][1]) == {"text": "tea: 3.50 EUR"}, "written to S3 and read from there"
    assert day.answers["question"][1] == b"It is hot.", "one stream of server-sent events"
    assert day.shop.upstreams.events, "Sentry was told of the error"


def test_each_call_is_charged_to_its_package_in_the_log(day: Day) -> None:
    decided = [r for r in day.shop.records() if r["kind"] == "decision" and r["capability"] != "network:listen"]
    assert {(r["verdict"], r["reason"], r["tier"]) for r in decided} == {("allow", "allowed", "enforced")}, day.said
    assert {r["host"]: names(r["chain"]) for r in decided if not r["chain"][0].startswith("?")} == CHARGED
    assert {r["principal"] for r in decided} == {chain[0] for chain in CHARGED.values()}
    (listening,) = [r for r in day.shop.records() if r["capability"] == "network:listen"]
    assert (listening["principal"], listening["verdict"]) == ("uvicorn", "allow")


def test_each_key_arrives_at_its_own_host_and_no_pass_arrives_anywhere(day: Day) -> None:
    seen = day.shop.upstreams.seen
    assert {one.host for one in seen} == {RATES, STRIPE, S3, MODEL, SENTRY}
    for key, host in (("sk_test_shop", STRIPE), ("sk-openai-shop", MODEL), ("AKIASHOP", S3), ("sentry_key=public", SENTRY)):
        assert {one.host for one in seen if any(key in value for _, value in one.headers)} == {host}, key
    assert not [one for one in seen if one.header("outpass-token") or one.header("proxy-authorization")]


def test_the_services_own_tests_pass_behind_outpass(day: Day) -> None:
    with schema() as fresh:
        done = day.shop.run([day.shop.bin("pytest"), "-q", "-p", "no:cacheprovider"], DATABASE_URL=url(DATABASE, fresh))
    assert done.returncode == 0 and "5 passed" in done.stdout, done.stdout + done.stderr
    assert done.stderr == "", "and nothing was refused"


def test_the_models_key_does_not_leave_for_another_host(day: Day) -> None:
    """A poisoned setting: the SDK would send its key there with the first question."""
    before = len(day.shop.upstreams.seen)
    with day.shop.served(OPENAI_BASE_URL=f"https://{ELSEWHERE}/v1") as served:
        status, body = served.ask("/ask", {"text": "Is it hot?"})
        assert served.ask("/orders/1")[0] == 200, "the rest goes on"
    assert status == 502 and ELSEWHERE not in {one.host for one in day.shop.upstreams.seen[before:]}, served.said()
    told = json.loads(body)["error"]
    assert (told["code"], told["package"], told["capability"]) == ("no_rule", "openai", "network:http")
    assert told["destination"] == f"https://{ELSEWHERE}/v1/chat/completions", told
    refused = [r for r in day.shop.records() if r["verdict"] == "deny"]
    assert {(r["principal"], r["reason"], r["host"]) for r in refused} == {("openai", "no_rule", ELSEWHERE)}
    for text in (served.said(), day.shop.outpass("log", "--denied").stdout):
        assert f"POST https://{ELSEWHERE}/v1/chat/completions" in text and "openai@" in text and "no_rule" in text, text
        assert f'- "POST https://{ELSEWHERE}/v1/chat/completions"' in text, "the line that would allow it"
    asked = day.shop.outpass(
        "explain", "--policy", "outpass.yaml", "openai,app", "POST", f"https://{ELSEWHERE}/v1/chat/completions"
    )
    assert asked.returncode == 1 and "no_rule" in asked.stdout


def test_without_a_jail_it_works_as_well_with_its_database_on_loopback(day: Day) -> None:
    with schema() as fresh:
        with day.shop.served("--no-jail", DATABASE_URL=url(SERVER[0], fresh)) as served:
            assert served.ask("/orders", TEA)[0] == 201, served.said()
            assert served.ask("/orders/1/receipt")[0] == 200
            assert served.ask("/ask", {"text": "?"}) == (200, b"It is hot.")
            assert served.ask("/rates")[0] == 200

"""The shop's own tests, which know nothing of outpass: `pytest`, or `outpass run -- pytest`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sentry_sdk
from fastapi.testclient import TestClient
from shop.web import app


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(app, raise_server_exceptions=False) as made:
        yield made


def test_an_order_is_kept_paid_and_has_a_receipt(client: TestClient) -> None:
    placed = client.post("/orders", json={"item": "tea", "cents": 350})
    assert placed.status_code == 201
    number = placed.json()["id"]
    assert client.get(f"/orders/{number}").json() == {"id": number, "item": "tea", "cents": 350, "payment": "pi_1"}
    assert client.get(f"/orders/{number}/receipt").json() == {"text": "tea: 3.50 EUR"}


def test_a_price_and_its_rates(client: TestClient) -> None:
    assert client.get("/quote").json()["item"] == "tea"
    assert client.get("/rates").json() == {"USD": 1.1}


def test_a_question_is_answered_word_by_word(client: TestClient) -> None:
    with client.stream("POST", "/ask", json={"text": "Is it hot?"}) as answer:
        assert "".join(answer.iter_text()) == "It is hot."


def test_an_error_is_told(client: TestClient) -> None:
    assert client.get("/broken").status_code == 500
    sentry_sdk.flush(10)


def test_an_order_that_is_not_there(client: TestClient) -> None:
    assert client.get("/orders/0").status_code == 404

"""The service: `uvicorn shop.web:app`.

Lives here: its endpoints. May not live here: clients of other services.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx2
import openai
import sentry_sdk
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel
from sqlalchemy.orm import Session

from shop import assistant, orders, payments, receipts, settings

sentry_sdk.init(settings.SENTRY_DSN or None, traces_sample_rate=0.0, shutdown_timeout=5)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """The table, and the client for the rates."""
    orders.Base.metadata.create_all(orders.engine)
    async with httpx2.AsyncClient() as app.state.http:
        yield
    orders.engine.dispose()


app = FastAPI(lifespan=lifespan)
Database = Annotated[Session, Depends(orders.session)]


class New(BaseModel):
    """An order that somebody places."""

    item: str
    cents: int


class Question(BaseModel):
    """What a customer asks."""

    text: str


@app.get("/quote")
def quote(item: str = "tea") -> dict[str, Any]:
    """A price, from nothing but the item's name."""
    digest = item.encode()
    for _ in range(100):
        digest = hashlib.sha256(digest).digest()
    return {"item": item, "cents": int.from_bytes(digest[:2])}


@app.get("/rates")
async def rates() -> Any:
    """Of other currencies, fetched for each who asks."""
    answer = await app.state.http.get(settings.RATES_URL)
    answer.raise_for_status()
    return answer.json()


@app.post("/orders", status_code=201)
def place(new: New, database: Database) -> dict[str, Any]:
    """Keeps the order, takes the money, writes the receipt."""
    order = orders.Order(item=new.item, cents=new.cents)
    database.add(order)
    database.flush()
    order.payment = payments.charge(new.cents, new.item)
    receipts.put(order.id, f"{new.item}: {new.cents / 100:.2f} EUR")
    database.commit()
    return {"id": order.id, "payment": order.payment}


@app.get("/orders/{number}")
def order(number: int, database: Database) -> dict[str, Any]:
    """What was ordered: one query."""
    if (found := database.get(orders.Order, number)) is None:
        raise HTTPException(404)
    return {"id": found.id, "item": found.item, "cents": found.cents, "payment": found.payment}


@app.get("/orders/{number}/receipt")
def receipt(number: int) -> dict[str, str]:
    """As it was written."""
    return {"text": receipts.get(number)}


@app.post("/ask")
async def ask(question: Question) -> Any:
    """The answer as it comes; 502 when there is none."""
    words = assistant.answer(question.text)
    try:
        first = await anext(words)
    except openai.APIStatusError as e:
        return JSONResponse({"error": e.body}, 502)

    async def whole() -> AsyncIterator[str]:
        yield first
        async for word in words:
            yield word

    return StreamingResponse(whole(), media_type="text/plain")


@app.get("/broken")
async def broken() -> None:
    """For Sentry."""
    raise RuntimeError("the kettle is empty")

"""What the gate asks the broker: an address for a name, and which program holds a connection.

Lives here: questions, answers, and how long one is waited for. May not live here: what is made of an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final, Protocol

ANSWER_S: Final = 5.0
"""Seconds for an answer; a look at /proc under load takes a tenth of one."""
MAX_OPEN: Final = 4_096


class Sink(Protocol):
    """Where messages to the broker go (Outgoing)."""

    def post(self, message: Mapping[str, Any]) -> None:
        """Queue one message."""


class Unanswered(Exception):
    """The broker did not answer, or refused; nothing may be assumed."""


class Questions:
    """Questions that are open, by number."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._open: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._number = 0

    def tell(self, message: Mapping[str, Any]) -> None:
        """Say something that needs no answer."""
        self._sink.post(message)

    async def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """The broker's answer. Raises Unanswered."""
        if len(self._open) >= MAX_OPEN:
            raise Unanswered("too many questions are open")
        self._number += 1
        number = self._number
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._open[number] = future
        try:
            self._sink.post({**message, "seq": number})
            async with asyncio.timeout(ANSWER_S):
                answer = await future
        except TimeoutError:
            raise Unanswered("the broker does not answer") from None
        finally:
            del self._open[number]
        if "error" in answer:
            raise Unanswered(str(answer["error"]))
        return answer

    def answered(self, message: dict[str, Any]) -> None:
        """An `answer` came in; one that nobody waits for any more is dropped."""
        future = self._open.get(message.get("seq", -1))
        if future is not None and not future.done():
            future.set_result(message)

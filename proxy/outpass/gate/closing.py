"""The layer for bytes that are neither HTTP nor TLS: one answer, then the end.

Lives here: that layer. May not live here: how it is known that the bytes are neither (addon.py).
"""

from __future__ import annotations

from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import CommandGenerator, Layer

from outpass.gate import refusal


class Closing(Layer):
    """Sends one refusal to the client, as HTTP/1 (who speaks HTTP can read it), and closes the connection."""

    def __init__(self, context: Context, answer: refusal.Refusal) -> None:
        super().__init__(context)
        self._answer = answer
        self._answered = False

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        if not self._answered:
            self._answered = True
            yield commands.SendData(self.context.client, refusal.as_http1(self._answer))
            yield commands.CloseConnection(self.context.client)

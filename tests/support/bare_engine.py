"""The gate's engine with all its overrides and nothing else: no policy, no pass, no audit. What the gate is measured against.

Lives here: `python -m tests.support.bare_engine PORT CA_KEY CA_CERT BUNDLE HOST:PORT=ADDRESS:PORT…`, a proxy that lets
everything through. May not live here: anything that the gate would use.
"""

from __future__ import annotations

import asyncio
import datetime
import gc
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mitmproxy.proxy import layers
from mitmproxy.proxy.layers.http import HTTPMode
from mitmproxy.proxy.layers.modes import HttpProxy

from outpass.gate import listeners, refusal, trust
from outpass.gate.ca import GateTls, LeafStore
from outpass.gate.client import Client, client_of
from outpass.gate.engine import install, options
from outpass.gate.engine.pacing import HttpLayer
from outpass.gate.handler import GateHandler, Hook
from outpass.gate.jails import Jail
from outpass.gate.pins import Pins, resolve
from outpass.gate.recorder import Recorder
from outpass.model import Decision, EgressRequest
from outpass.reasons import Reason


class Nothing:
    """Hooks that let everything through."""

    def __init__(self) -> None:
        self._table: dict[str, Hook] = {
            "next_layer": self.next_layer,
            "requestheaders": self.requestheaders,
            "responseheaders": self.responseheaders,
        }

    @property
    def table(self) -> Mapping[str, Hook]:
        return self._table

    def next_layer(self, data: Any) -> None:
        last = data.context.layers[-1]
        if isinstance(last, HttpProxy):
            data.layer = HttpLayer(data.context, HTTPMode.regular)
        elif isinstance(last, layers.ClientTLSLayer):
            data.layer = HttpLayer(data.context, HTTPMode.transparent)
        elif len(data.data_client()) > 2:
            data.layer = layers.ServerTLSLayer(data.context)
            data.layer.child_layer = layers.ClientTLSLayer(data.context)

    def requestheaders(self, flow: Any) -> Any:
        flow.request.stream = True
        key = (flow.request.host, flow.request.port)
        pins = client_of(flow.client_conn).pins
        pin = pins.ready(key)
        if pin is not None:
            pin.users = 1
            return None

        async def wait() -> None:
            (await pins.pin(key)).users = 1

        return wait()

    def responseheaders(self, flow: Any) -> None:
        flow.response.stream = True

    def failed(self, name: str, data: Any, error: BaseException) -> bool:
        print(f"failed: {name}: {error!r}", file=sys.stderr)
        return False


class Sink:
    """Records go nowhere."""

    def record(self, record: Mapping[str, Any], *, now: bool) -> None:
        return None

    def encoded(self, text: bytes) -> None:
        return None


def _nobody(request: EgressRequest) -> Decision:
    raise AssertionError


async def serve(port: int, key: str, cert: str, bundle: str, overrides: dict[tuple[str, int], tuple[str, int]]) -> None:
    install.install()
    store = LeafStore(Path(key).read_text(), Path(cert).read_text(), lambda: datetime.datetime.now(datetime.UTC))
    tls = GateTls(store, lambda context: context.client.sni or "", lambda _: None)
    made = options.start(tls, trust.joined(bundle)[1])
    hooks = Nothing()
    hooks._table |= {"tls_start_client": tls.tls_start_client, "tls_start_server": tls.tls_start_server}
    hooks._table["server_disconnected"] = tls.server_disconnected
    recorder = Recorder(Sink(), lambda: 0.0)
    loop = asyncio.get_running_loop()

    async def accept(jail: Jail, source: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = Client(jail, source, recorder, Pins(overrides, resolve, loop.time), writer.close)
        await GateHandler(reader, writer, made, client, hooks).handle_client()

    await listeners.adopt(Jail("bare", "attributed", "", _nobody), socket.create_server(("127.0.0.1", port)), accept)
    gc.collect()
    gc.freeze()
    assert refusal.of_reason(Reason.INTERNAL)
    await asyncio.Event().wait()


def _override(text: str) -> tuple[tuple[str, int], tuple[str, int]]:
    (host, port), (address, to) = (part.split(":") for part in text.split("="))
    return (host, int(port)), (address, int(to))


if __name__ == "__main__":
    number, ca_key, ca_cert, upstream, *rest = sys.argv[1:]
    asyncio.run(serve(int(number), ca_key, ca_cert, upstream, dict(_override(r) for r in rest)))

"""A bug in a hook or a layer: one record, one line on standard error, and an id that leads from the one to the other.

Lives here: what is written down. May not live here: what becomes of the connection (addon.failed).
"""

from __future__ import annotations

import logging
from typing import Any

from mitmproxy import http

from outpass.gate.client import client_of
from outpass.gate.recorder import Recorder
from outpass.reasons import Reason

log = logging.getLogger("outpass.gate")


def note(recorder: Recorder, name: str, data: Any, error: BaseException) -> str:
    """Write down that `name` raised `error` over `data` (a flow, a hook's data, or a client); returns the record's id."""
    connected = data.client_conn if isinstance(data, http.HTTPFlow) else getattr(data, "context", data)
    connected = getattr(connected, "client", connected)
    client = client_of(connected)
    trace = recorder.refusal(client.jail, Reason.INTERNAL, tunnel=client.tunnel_address, detail=type(error).__name__)
    where = error.__traceback__
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    line = f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}" if where is not None else "?"
    log.error("outpass: error: the gate failed in %s (%s): %r at %s", name, trace, error, line)
    return trace

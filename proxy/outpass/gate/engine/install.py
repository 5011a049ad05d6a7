"""Puts our layers into the engine, for the whole process.

Lives here: the list of replacements, the version they were written against, and the process-wide switches. May not live
here: the replacements themselves.

The engine builds its layers by names in its own modules, looked up when they are called; so a name is rebound there, and
nothing of the engine is copied. The engine's version is checked, because a name that moved would silently not be replaced.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, Final, NamedTuple

import h2.connection
import h2.frame_buffer
import h2.stream
import hyperframe.frame
from hpack import hpack
from mitmproxy import connection, flow, hooks, optmanager, version
from mitmproxy import http as engine_http
from mitmproxy.net.http import http1, url
from mitmproxy.proxy import commands, context, events, layer
from mitmproxy.proxy.layers import http as layers_http
from mitmproxy.proxy.layers import websocket as engine_websocket
from mitmproxy.proxy.layers.http import _http1

from outpass.errors import StartError
from outpass.gate.engine import chunks, frames, h1, lean, pacing, stream, websocket
from outpass.gate.engine.h2 import Http2Client, Http2Server

ENGINE: Final = "12.2.3"


class Replacement(NamedTuple):
    """`module.name` (or `class.name`) becomes `ours`."""

    module: ModuleType | type
    name: str
    ours: Any


REPLACEMENTS: Final = (
    Replacement(layers_http, "HttpStream", stream.HttpStream),
    Replacement(layers_http, "Http1Server", h1.Http1Server),
    Replacement(layers_http, "Http1Client", h1.Http1Client),
    Replacement(layers_http, "Http2Server", Http2Server),
    Replacement(layers_http, "Http2Client", Http2Client),
    Replacement(layers_http, "HttpLayer", pacing.HttpLayer),
    Replacement(layers_http, "GetHttpConnection", pacing.GetHttpConnection),
    Replacement(engine_websocket, "WebsocketLayer", websocket.WebsocketLayer),
    Replacement(_http1, "make_body_reader", chunks.make_body_reader),
)


CHEAPER: Final = (
    Replacement(layer.Layer, "handle_event", lean.handle_event),
    Replacement(layers_http.HttpLayer, "event_to_child", lean.event_to_child),
    Replacement(layers_http.HttpLayer, "_handle_event", lean.http_event),
    Replacement(_http1.Http1Connection, "_handle_event", lean.http1_event),
    Replacement(engine_http.Headers, "get_all", lean.get_all),
    Replacement(engine_http.Headers, "__getitem__", lean.getitem),
    Replacement(engine_http.Headers, "get", lean.get),
    Replacement(engine_http.Headers, "__contains__", lean.contains),
    Replacement(http1, "expected_http_body_size", lean.expected_http_body_size),
    Replacement(url, "parse_authority", lean.parse_authority),
    Replacement(optmanager._Option, "current", lean.current),
    Replacement(context.Context, "fork", lean.fork),
    Replacement(flow, "uuid", lean.Numbers),
    Replacement(connection, "uuid", lean.Numbers),
    # Two connections are the same when they are one object; the engine compares their UUIDs, for flows read from files.
    Replacement(connection.Connection, "__eq__", object.__eq__),
    Replacement(connection.Connection, "__hash__", object.__hash__),
    # These check that no abstract class is instantiated, each time that one of theirs is.
    Replacement(hooks.Hook, "__new__", lean.new),
    Replacement(commands.StartHook, "__new__", lean.new),
    Replacement(events.CommandCompleted, "__new__", lean.new),
    Replacement(hpack, "log", lean.Quiet()),
    Replacement(hpack, "decode_huffman", lean.decode_huffman),
    Replacement(hpack.Decoder, "decode", frames.decode),
    Replacement(hpack.Encoder, "add", frames.add),
    Replacement(hyperframe.frame, "Flags", frames.Flags),
    Replacement(hyperframe.frame.DataFrame, "__init__", frames.data_frame),
    Replacement(hyperframe.frame.HeadersFrame, "__init__", frames.headers_frame),
    Replacement(hyperframe.frame.Frame, "serialize", frames.serialize),
    Replacement(h2.frame_buffer.FrameBuffer, "__next__", frames.next_frame),
    Replacement(h2.connection.H2Connection, "_prepare_for_sending", frames.prepare_for_sending),
    Replacement(h2.connection.H2Connection, "data_to_send", frames.data_to_send),
    Replacement(h2.connection.H2ConnectionStateMachine, "process_input", frames.connection_input),
    Replacement(h2.stream.H2StreamStateMachine, "process_input", frames.stream_input),
    Replacement(h2.stream, "validate_headers", frames.validate_headers),
    Replacement(h2.stream, "utf8_encode_headers", frames.utf8_encode_headers),
    # The HTTP/2 library formats every frame for a log that throws it away.
    Replacement(hyperframe.frame.Frame, "__repr__", object.__repr__),
)
"""Change nothing but what things cost (lean.py, frames.py)."""
ORIGINALS: Final = tuple(getattr(r.module, r.name) for r in CHEAPER)
"""What stood there when this module was imported; tests hold the others against it."""


def install() -> None:
    """Replace the engine's layers in this process; idempotent. Raises StartError for any version but the pinned one."""
    if version.VERSION != ENGINE:
        raise StartError(
            f"the gate's engine is mitmproxy {version.VERSION}, and only {ENGINE} was reviewed",
            f"install mitmproxy=={ENGINE}",
        )
    for module, name, ours in (*REPLACEMENTS, *CHEAPER):
        if not hasattr(module, name):
            raise StartError(f"the gate's engine has no {module.__name__}.{name}")
        setattr(module, name, ours)
    # The engine checks the type of every field of every message at run time: 14 % of its CPU. Our types are checked before
    # we start. (python -O would do it too, and would take the assertions of the state machines with it.)
    engine_http.MessageData.__post_init__ = _unchecked  # type: ignore[method-assign]


def _unchecked(_: engine_http.MessageData) -> None:
    return None

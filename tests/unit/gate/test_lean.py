"""The cheaper functions of the engine give what the engine's own give."""

from __future__ import annotations

from typing import Any

import pytest
from hpack import huffman_constants
from hpack.exceptions import HPACKDecodingError
from hpack.huffman import HuffmanEncoder
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import http
from mitmproxy.connection import Client, Server
from mitmproxy.options import Options
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import _http1

from outpass.gate.engine import lean
from outpass.gate.engine.install import CHEAPER, ORIGINALS

STOCK: dict[str, Any] = {r.name: original for r, original in zip(CHEAPER, ORIGINALS, strict=True)}
NAMES = st.sampled_from([b"Host", b"host", b"Content-Length", b"content-length", b"Transfer-Encoding", b"X-\xff", b"", b"te"])
VALUES = st.one_of(st.binary(max_size=12), st.sampled_from([b"chunked", b"gzip, chunked", b"5", b"05", b"+5", b"", b"identity"]))
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=5)


def _outcome(call: Any, *args: Any) -> Any:
    try:
        return call(*args)
    except Exception as error:
        return type(error), str(error)


@given(FIELDS, st.one_of(NAMES, st.sampled_from(["host", "HOST", "content-length", "x-\udcff", "absent"])))
def test_a_field_is_found_as_the_engine_finds_it(fields: list[tuple[bytes, bytes]], name: Any) -> None:
    """Invariant: look-ups of a header, in every form, equal the engine's."""
    headers = http.Headers(fields)
    assert lean.get_all(headers, name) == STOCK["get_all"](headers, name)
    assert lean.get(headers, name) == STOCK["get"](headers, name)
    assert lean.get(headers, name, "none") == STOCK["get"](headers, name, "none")
    assert lean.contains(headers, name) == STOCK["__contains__"](headers, name)
    ours, stock = _outcome(lean.getitem, headers, name), _outcome(STOCK["__getitem__"], headers, name)
    assert ours == stock or (ours[0] is KeyError and stock[0] is KeyError)


@given(
    FIELDS, st.none() | st.tuples(st.sampled_from([100, 200, 204, 304, 404]), FIELDS), st.sampled_from(["GET", "HEAD", "CONNECT"])
)
def test_a_body_is_as_long_as_the_engine_says(
    fields: list[tuple[bytes, bytes]], answer: tuple[int, list[tuple[bytes, bytes]]] | None, method: str
) -> None:
    """Invariant: the expected size of a body, or the error, equals the engine's."""
    request = http.Request.make(method, "http://api.test/")
    request.headers = http.Headers(fields)
    response = None
    if answer is not None:
        response = http.Response.make(answer[0])
        response.headers = http.Headers(answer[1])
    assert _outcome(lean.expected_http_body_size, request, response) == _outcome(
        STOCK["expected_http_body_size"], request, response
    )


@given(st.binary(max_size=64))
def test_any_bytes_decode_as_hpack_decodes_them(data: bytes) -> None:
    """Invariant: for every byte string, valid Huffman or not, text and error equal hpack's."""
    assert (
        _outcome(lean.decode_huffman, data) == _outcome(STOCK["decode_huffman"], data) == _outcome(lean.decode_pass, data or b"")
    )


@given(st.binary(max_size=200))
def test_what_hpack_encodes_is_decoded(text: bytes) -> None:
    """Invariant: decoding inverts hpack's encoding."""
    encoder = HuffmanEncoder(huffman_constants.REQUEST_CODES, huffman_constants.REQUEST_CODES_LENGTH)
    assert lean.decode_huffman(encoder.encode(text)) == lean.decode_pass(encoder.encode(text)) == text


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\x00", None, b""])
def test_bad_huffman_is_bad_again_when_it_comes_again(data: bytes | None) -> None:
    first = _outcome(lean.decode_huffman, data)
    assert first == _outcome(lean.decode_huffman, data) == _outcome(STOCK["decode_huffman"], data)
    assert (first == b"") == (not data) and (not data or first[0] is HPACKDecodingError)


class _Ask(commands.Command):
    blocking = True


class _Told(commands.Command):
    def __init__(self, what: Any) -> None:
        self.what = what


class _Child(layer.Layer):
    """Says what it is given; asks for as many replies as the event names, one after the other."""

    def _handle_event(self, event: Any) -> Any:
        yield _Told(("begin", event))
        for _ in range(event.asks):
            reply = yield _Ask()
            yield _Told(("reply", reply))
        yield _Told(("end", event))


class _Event(events.Event):
    def __init__(self, asks: int) -> None:
        self.asks = asks


def _context() -> Context:
    return Context(Client(peername=("127.0.0.1", 1), sockname=("127.0.0.1", 2)), Options())


def _play(handle: Any, steps: list[int]) -> list[Any]:
    """What a layer says when it is given events (0 to 2 replies wanted) and, for -1, the reply that it waits for longest."""
    made, said, open_asks = _Child(_context()), [], []
    for at, step in enumerate(steps):
        if step >= 0:
            event: Any = _Event(step)
        elif open_asks:
            event = events.OpenConnectionCompleted(open_asks.pop(0), str(at))
        else:
            continue
        for command in handle(made, event):
            if isinstance(command, _Told):
                said.append((command.what[0], getattr(command.what[1], "asks", command.what[1])))
            else:
                assert command.blocking is made, "an outer layer would wait too"
                open_asks.append(command)
                said.append("asks")
    return said


@given(st.lists(st.integers(-1, 2), max_size=14))
def test_a_layer_waits_and_goes_on_as_in_the_engine(steps: list[int]) -> None:
    """Invariant: whatever a layer is told and waits for, it says the same things in the same order as in the engine."""
    assert _play(lean.handle_event, steps) == _play(STOCK["handle_event"], steps)


def _body(kind: Any, handle: Any, size: int | None, chunks: list[bytes]) -> list[Any]:
    """What an HTTP/1 connection makes of a body that arrives in `chunks`, announced as `size` bytes (None: chunked; -1: to the end)."""
    context = _context()
    context.server = Server(address=("api.test", 80))
    made, said = kind(context), []
    made.stream_id, made.request, made.response = 1, http.Request.make("POST", "http://api.test/"), http.Response.make(200)
    made.body_reader, made.state = _http1.make_body_reader(size), made.read_body
    for chunk in chunks:
        for command in handle(made, events.DataReceived(made.conn, chunk)):
            event = getattr(command, "event", None)
            said.append((type(command), type(event), getattr(event, "data", None)))
        said.append((bytes(made.buf), made.request_done, made.response_done, getattr(made.body_reader, "_remaining", None)))
    return said


@given(
    st.sampled_from([_http1.Http1Client, _http1.Http1Server]),
    st.sampled_from([0, 1, 3, 6, 20, -1, None]),
    st.lists(st.sampled_from([b"", b"a", b"abc", b"abcdef", b"3\r\nabc\r\n", b"0\r\n\r\n"]), max_size=5),
)
def test_a_body_of_known_length_is_cut_where_the_engine_cuts_it(kind: Any, size: int | None, chunks: list[bytes]) -> None:
    """Invariant: however a body arrives, and whatever follows it, data, end and what stays in the buffer equal the engine's."""
    assert _body(kind, lean.http1_event, size, chunks) == _body(kind, lean._http1_event, size, chunks)


def test_a_body_of_known_length_goes_on_without_a_copy() -> None:
    data = b"x" * 10
    said = _body(_http1.Http1Client, lean.http1_event, 20, [data])
    assert said[0][2] is data


def test_a_fork_has_layers_of_its_own_and_shares_the_rest() -> None:
    context = _context()
    context.server = Server(address=("api.test", 443))
    made = lean.fork(context)
    made.layers.append(_Child(context))
    assert (made.client, made.server, made.options) == (context.client, context.server, context.options)
    assert made.layers[-1] not in context.layers[:-1] and len(context.layers) == 1
    assert vars(made).keys() == vars(STOCK["fork"](context)).keys()


def test_names_of_flows_are_unique() -> None:
    assert len({lean.Numbers.uuid4() for _ in range(1000)}) == 1000

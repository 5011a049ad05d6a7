"""One row for each way in which Python programs use the network: how a package asks, and how an application does.

Lives here: the rows. May not live here: assertions. `ask` is the source of one function that is installed twice, in the
application and in the package `evil`, so that both use one session; `main` has the two as `mine` and `theirs`, and `url(who)`.
"""

from __future__ import annotations

from typing import NamedTuple

HTTP, WS, RPC = "api.example.com", "ws.example.com", "rpc.example.com"
PLAIN, RAW = "plain.example.com", "raw.example.com"
"""Without TLS; and where the application has a right to a socket only."""


class Stack(NamedTuple):
    name: str
    ask: str
    main: str
    """leaves a list of two answers in `got`: the application's, and what became of evil's"""
    host: str = HTTP


def _async(name: str, ask: str, session: str, host: str = HTTP, run: str = "asyncio.run(main())") -> Stack:
    body = f"import asyncio\nasync def main():\n    async with {session} as s:\n        return [await mine(s, url('app')), await theirs(s, url('evil'))]\ngot = {run}"
    return Stack(name, "async " + ask, body, host)


def _sync(name: str, ask: str, session: str, host: str = HTTP) -> Stack:
    return Stack(name, ask, f"{session}\ngot = [mine(s, url('app')), theirs(s, url('evil'))]", host)


STATUS = "def ask(s, url):\n    return s.get(url).status_code\n"
AWAIT = "def ask(s, url):\n    return (await s.get(url)).status_code\n"
AIOHTTP = "def ask(s, url):\n    async with s.get(url) as r: return r.status\n"
URLLIB3 = "def ask(s, url):\n    return s.request('GET', url, retries=False).status\n"
_AIO_WS = (
    "def ask(s, url):\n    import aiohttp\n    try:\n        async with s.ws_connect(url) as w:\n            await w.send_str('200')\n"
    "            return int((await w.receive()).data)\n    except aiohttp.WSServerHandshakeError as e: return e.status\n"
)
# Two threads of websockets.sync use one SSLSocket at once, which CPython 3.13.0 does not lock: of 2 000 connections straight to a server,
# without outpass, 16 waited for ever for the answer to a handshake that was never sent. So that is tried again.
WEBSOCKET = """
def ask(options, url, tries=4):
    from websockets.sync.client import connect
    from websockets.exceptions import InvalidStatus
    try:
        with connect(url, **options) as w:
            w.send('200'); return int(w.recv())
    except InvalidStatus as e: return e.response.status_code
    except TimeoutError:
        if not tries: raise
    return ask(options, url, tries - 1)
"""
_WS_AWAIT = (
    "async def ask(options, url):\n    from websockets.asyncio.client import connect\n    from websockets.exceptions import InvalidStatus\n    try:\n"
    "        async with connect(url, **options) as w:\n            await w.send('200'); return int(await w.recv())\n    except InvalidStatus as e: return e.response.status_code\n"
)
_WS_CLIENT = (
    "def ask(options, url):\n    import websocket\n    try: w = websocket.create_connection(url, timeout=20, **options)\n"
    "    except websocket.WebSocketBadStatusException as e: return e.status_code\n    w.send('200'); answer = int(w.recv()); w.close()\n    return answer\n"
)
_CURL = (
    "def ask(s, url):\n    import io, pycurl\n    s.setopt(pycurl.URL, url); s.setopt(pycurl.WRITEFUNCTION, lambda b: None)\n    {perform}\n"
    "    return s.getinfo(pycurl.RESPONSE_CODE) or s.getinfo(pycurl.HTTP_CONNECTCODE)\n"
)
CURL = _CURL.format(perform="s.perform()")
_MULTI = (
    "m = pycurl.CurlMulti(); m.add_handle(s)\n    left = 1\n    while left:\n        left = m.perform()[1]; m.select(0.1)\n"
    "    m.remove_handle(s)"
)
STREAMS = (
    "async def ask(s, url):\n    import asyncio\n    from urllib.parse import urlsplit\n    u = urlsplit(url)\n    r, w = await asyncio.open_connection(u.hostname, 443, ssl=True)\n"
    "    w.write(f'GET {u.path} HTTP/1.1\\r\\nHost: {u.hostname}\\r\\nConnection: close\\r\\n\\r\\n'.encode())\n    line = await r.readline(); w.close()\n    return int(line.split()[1])\n"
)
CALL = (
    "def ask(s, url):\n    import grpc\n    path = url.partition('rpc.example.com')[2]\n    try: return 200 if s.unary_unary('/test.Echo/Unary')(path.encode()) == b'echo ' + path.encode() else 0\n"
    "    except grpc.RpcError as e: return 403 if e.code() is grpc.StatusCode.PERMISSION_DENIED else str(e)\n"
)
CHANNELS = (
    CALL.replace(
        "    path =",
        "    s = grpc.secure_channel('rpc.example.com:443', grpc.ssl_channel_credentials()); kept.append(s)\n    path =",
    )
    + "kept = []\n"
)
CALL_AWAIT = CALL.replace("def ask", "async def ask").replace(
    "s.unary_unary('/test.Echo/Unary')(path", "await s.unary_unary('/test.Echo/Unary')(path"
)
_TASK = (
    "def ask(s, url):\n    import {module}\n    async with {group} as g: g.start_soon(s.get, url)\n    return s.statuses[url]\n"
)
"""What runs in the task is a library's: only who started it tells whose wish it was."""
_NOTED = "__import__('noted').Client()"
_GREENLET = "def ask(s, url):\n    import gevent\n    return gevent.spawn(s.get, url).get().status_code\n"
_GREENLETS = (
    "def ask(s, url):\n    import gevent.pool\n    return [r.status_code for r in gevent.pool.Pool(2).imap(s.get, [url])][0]\n"
)
_GEVENT_POOL = "def ask(s, url):\n    import gevent\n    return gevent.get_hub().threadpool.spawn(s.get, url).get().status_code\n"
_GEVENT_SOCKET = (
    "def ask(s, url):\n    from urllib.parse import urlsplit\n    import gevent.socket\n    u = urlsplit(url); c = gevent.socket.create_connection((u.hostname, 80))\n"
    "    c.sendall(f'GET {u.path} HTTP/1.0\\r\\nHost: {u.hostname}\\r\\n\\r\\n'.encode())\n    return int(c.makefile('rb').readline().split()[1])\n"
)
NOTED = """
import httpx
class Client(httpx.AsyncClient):
    def __init__(self):
        super().__init__(event_hooks={"response": [self.note]})
        self.statuses = {}
    async def note(self, response): self.statuses[str(response.url)] = response.status_code
"""
"""A module of the application: httpx's client, which keeps the status of each answer by its URL."""
_BOTH = "import asyncio\nasync def main():\n    return [await mine(o, url('app')), await theirs(o, url('evil'))]\ngot = asyncio.run(main())"

STACKS = [
    _async("aiohttp, which goes round the proxy", AIOHTTP, "__import__('aiohttp').ClientSession()"),
    _async("aiohttp with trust_env", AIOHTTP, "__import__('aiohttp').ClientSession(trust_env=True)"),
    _async("a websocket of aiohttp", _AIO_WS, "__import__('aiohttp').ClientSession()", WS),
    _sync("requests without the environment", STATUS, "import requests; s = requests.Session(); s.trust_env = False"),
    _sync("urllib3 without a proxy", URLLIB3, "import urllib3; s = urllib3.PoolManager()"),
    _sync("httpx without the environment", STATUS, "import httpx; s = httpx.Client(trust_env=False)"),
    _sync("httpx without the environment, HTTP/2", STATUS, "import httpx; s = httpx.Client(trust_env=False, http2=True)"),
    _async("async httpx without the environment", AWAIT, "__import__('httpx').AsyncClient(trust_env=False)"),
    _sync("websockets with threads", WEBSOCKET, "s = {}", WS),
    _sync("websockets with threads, without a proxy", WEBSOCKET, "s = {'proxy': None}", WS),
    Stack("websockets", _WS_AWAIT, "o = {}\n" + _BOTH, WS),
    Stack("websockets without a proxy", _WS_AWAIT, "o = {'proxy': None}\n" + _BOTH, WS),
    _sync("websocket-client", _WS_CLIENT, "s = {}", WS),
    _sync("websocket-client without a proxy", _WS_CLIENT, "s = {'http_no_proxy': ['*']}", WS),
    _sync("pycurl", CURL, "import pycurl; s = pycurl.Curl()"),
    _sync("pycurl's CurlMulti", _CURL.format(perform=_MULTI), "import pycurl; s = pycurl.Curl()"),
    _sync("pycurl with certifi's roots", CURL, "import certifi, pycurl; s = pycurl.Curl(); s.setopt(pycurl.CAINFO, certifi.where())"),
    _sync("curl_cffi", STATUS, "from curl_cffi import requests; s = requests.Session()"),
    _async("async curl_cffi", AWAIT, "__import__('curl_cffi.requests').requests.AsyncSession()"),
    _async("aiohttp, without TLS", AIOHTTP, "__import__('aiohttp').ClientSession()", PLAIN),
    _async("aiohttp with trust_env, without TLS", AIOHTTP, "__import__('aiohttp').ClientSession(trust_env=True)", PLAIN),
    _async("async httpx without the environment, without TLS", AWAIT, "__import__('httpx').AsyncClient(trust_env=False)", PLAIN),
    _sync("urllib3 without a proxy, without TLS", URLLIB3, "import urllib3; s = urllib3.PoolManager()", PLAIN),
    _sync("pycurl, without TLS", CURL, "import pycurl; s = pycurl.Curl()", PLAIN),
    Stack("urllib3 over a socket rule", URLLIB3, "import urllib3\ngot = [mine(urllib3.PoolManager(), url('app')), theirs(urllib3.PoolManager(), url('evil'))]", RAW),
    _async("aiohttp over a socket rule", AIOHTTP, "__import__('aiohttp').ClientSession(connector=__import__('aiohttp').TCPConnector(force_close=True))", RAW),
    Stack("asyncio's streams", STREAMS, "o = None\n" + _BOTH),
    _sync("grpc", CALL, "import grpc; s = grpc.secure_channel('rpc.example.com:443', grpc.ssl_channel_credentials())", RPC),
    Stack("two grpc channels", CHANNELS, "got = [mine(None, url('app')), theirs(None, url('evil'))]", RPC),
    Stack("grpc.aio", CALL_AWAIT, "import grpc\n" + _BOTH.replace("    return", "    o = grpc.aio.secure_channel('rpc.example.com:443', grpc.ssl_channel_credentials())\n    return"), RPC),
    _async("aiohttp on uvloop", AIOHTTP, "__import__('aiohttp').ClientSession()", run="__import__('uvloop').run(main())"),
    Stack("asyncio's streams on uvloop", STREAMS, "import uvloop\no = None\n" + _BOTH.replace("asyncio.run", "uvloop.run")),
    _async("httpx on trio", AWAIT, "__import__('httpx').AsyncClient()", run="__import__('trio').run(main)"),
    _async("httpx on trio without the environment", AWAIT, "__import__('httpx').AsyncClient(trust_env=False)", run="__import__('trio').run(main)"),
    _async("a task of trio", _TASK.format(module="trio", group="trio.open_nursery()"), _NOTED, run="__import__('trio').run(main)"),
    _async("a task of anyio on asyncio", _TASK.format(module="anyio", group="anyio.create_task_group()"), _NOTED),
    _async("a task of anyio on trio", _TASK.format(module="anyio", group="anyio.create_task_group()"), _NOTED, run="__import__('trio').run(main)"),
    _sync("a greenlet", _GREENLET, "import requests; s = requests.Session()"),
    _sync("greenlets of a pool", _GREENLETS, "import requests; s = requests.Session()"),
    _sync("gevent's thread pool", _GEVENT_POOL, "import requests; s = requests.Session()"),
    _sync("gevent's own sockets", _GEVENT_SOCKET, "s = None", PLAIN),
]  # fmt: skip

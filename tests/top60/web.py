"""HTTP clients, and what fetches by them: those of the most downloaded that are not a vendor's SDK.

Lives here: smoke calls. May not live here: servers, assertions. A call is written into a program of its own, so it imports for itself.
"""

from __future__ import annotations

from tests.top60.answers import EVENTS, JWKS, REFS, wheel
from tests.top60.smoke import smoke

HELLO = "/hello"


@smoke("urllib3", 3, "GET", charged="app", says=HELLO)
def urllib3_(host):
    import urllib3

    return urllib3.request("GET", f"https://{host}/hello", retries=False).json()["path"]


@smoke("requests", 6, "GET", charged="app", says=HELLO)
def requests_(host):
    import requests

    answer = requests.get(f"https://{host}/hello", timeout=20)
    answer.raise_for_status()
    return answer.json()["path"]


@smoke("anyio", 25, "connect_tcp, an echo", charged="app", kind="socket", server="echo", port=7, says="hello")
def anyio_(host):
    import anyio

    async def main():
        async with await anyio.connect_tcp(host, 7) as stream:
            await stream.send(b"hello")
            return await stream.receive()

    return anyio.run(main)


@smoke("fsspec", 33, "reads a file over HTTP", needs=("aiohttp",), says=HELLO)
def fsspec_(host):
    import fsspec

    with fsspec.open(f"https://{host}/hello", block_size=0) as file:
        return file.read()


@smoke("httpx", 34, "GET over HTTP/2", charged="app", says="/hello HTTP/2", needs=("httpx[http2]",))
def httpx_(host):
    import httpx

    with httpx.Client(http2=True) as client:
        answer = client.get(f"https://{host}/hello")
        return f"{answer.raise_for_status().json()['path']} {answer.http_version}"


@smoke("httpcore", 35, "GET", charged="app", says=HELLO)
def httpcore_(host):
    import httpcore

    return httpcore.request("GET", f"https://{host}/hello").content


@smoke("pandas", 37, "read_csv of a URL", answers={"/table.csv": b"a,b\n40,1\n2,1\n"}, says="42")
def pandas_(host):
    import pandas

    return pandas.read_csv(f"https://{host}/table.csv")["a"].sum()


@smoke("pip", 38, "downloads a wheel from an index", answers=wheel("tiny", "1.0"), says="tiny-1.0")
def pip_(host):
    import subprocess
    import sys

    command = [
        sys.executable,
        "-m",
        "pip",
        "--isolated",
        "--retries=0",
        "download",
        "-q",
        "--no-deps",
        "--no-cache-dir",
        "-d",
        "down",
    ]
    done = subprocess.run([*command, "--index-url", f"https://{host}/simple/", "tiny"], capture_output=True, text=True)
    import os

    return os.listdir("down") if done.returncode == 0 else done.stderr[-300:]


@smoke("pyjwt", 44, "PyJWKClient fetches keys", needs=("pyjwt[crypto]",), answers={"/jwks.json": JWKS}, says="['k1']")
def pyjwt_(host):
    import jwt

    return [key.key_id for key in jwt.PyJWKClient(f"https://{host}/jwks.json").get_signing_keys()]


@smoke("aiohttp", 49, "GET", charged="app", says=HELLO)
def aiohttp_(host):
    import asyncio

    import aiohttp

    async def main():
        async with aiohttp.ClientSession(raise_for_status=True) as session, session.get(f"https://{host}/hello") as answer:
            return await answer.text()

    return asyncio.run(main())


@smoke("requests-oauthlib", 88, "GET with an OAuth 2 token", charged="app", says=HELLO)
def requests_oauthlib_(host):
    from requests_oauthlib import OAuth2Session

    answer = OAuth2Session("me", token={"access_token": "t"}).get(f"https://{host}/hello")
    answer.raise_for_status()
    return answer.text


@smoke("websockets", 92, "a message and its echo", charged="app", server="ws", says="hello")
def websockets_(host):
    from websockets.sync.client import connect

    with connect(f"wss://{host}/ws") as socket:
        socket.send("hello")
        return socket.recv()


@smoke("requests-toolbelt", 116, "GET by a BaseUrlSession", charged="app", says=HELLO)
def requests_toolbelt_(host):
    from requests_toolbelt.sessions import BaseUrlSession

    answer = BaseUrlSession(f"https://{host}/").get("hello")
    answer.raise_for_status()
    return answer.text


@smoke("websocket-client", 125, "a message and its echo", charged="app", server="ws", says="hello")
def websocket_client_(host):
    import websocket

    socket = websocket.create_connection(f"wss://{host}/ws", timeout=20)
    socket.send("hello")
    return socket.recv()


@smoke("gitpython", 144, "ls-remote", charged="exe:git", family=("gitpython",), answers=REFS, says="refs/heads/main")
def gitpython_(host):
    import git

    return git.cmd.Git().ls_remote(f"https://{host}/repo.git")


@smoke("httpx-sse", 172, "reads an event stream", charged="app", answers={"/events": EVENTS}, says="['one', 'two']")
def httpx_sse_(host):
    import httpx
    import httpx_sse

    with httpx.Client() as client, httpx_sse.connect_sse(client, "GET", f"https://{host}/events") as source:
        source.response.raise_for_status()
        return [event.data for event in source.iter_sse()]


@smoke("tiktoken", 208, "fetches an encoding's file", says=HELLO)
def tiktoken_(host):
    import tiktoken.load

    return tiktoken.load.read_file(f"https://{host}/hello")


@smoke("prometheus-client", 230, "pushes to a gateway", says="pushed")
def prometheus_client_(host):
    from prometheus_client import CollectorRegistry, Gauge, push_to_gateway

    registry = CollectorRegistry()
    Gauge("answer", "of everything", registry=registry).set(42)
    push_to_gateway(f"https://{host}", job="top60", registry=registry)
    return "pushed"


@smoke("httplib2", 242, "GET", charged="app", says="200")
def httplib2_(host):
    import httplib2

    return httplib2.Http().request(f"https://{host}/hello")[0].status


@smoke("authlib", 275, "fetches a token", answers={"/token": {"access_token": "t42", "token_type": "Bearer"}}, says="t42")
def authlib_(host):
    from authlib.integrations.requests_client import OAuth2Session

    return OAuth2Session("me", "secret").fetch_token(f"https://{host}/token", grant_type="client_credentials")["access_token"]


@smoke("tornado", 287, "GET by its own client", charged="app", says=HELLO)
def tornado_(host):
    import asyncio

    from tornado.httpclient import AsyncHTTPClient

    async def main():
        return (await AsyncHTTPClient().fetch(f"https://{host}/hello")).body

    return asyncio.run(main())


@smoke("cachecontrol", 306, "GET by a cached session", charged="app", says=HELLO)
def cachecontrol_(host):
    import cachecontrol
    import requests

    answer = cachecontrol.CacheControl(requests.Session()).get(f"https://{host}/hello")
    answer.raise_for_status()
    return answer.text


@smoke("virtualenv", 79, "downloads pip as a seed", answers=wheel("pip", "99.0"), says="pip-99.0.dist-info")
def virtualenv_(host):
    import os
    import subprocess
    import sys

    env = {**os.environ, "PIP_INDEX_URL": f"https://{host}/simple/", "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0"}
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        env.pop(name, None)
    command = [sys.executable, "-m", "virtualenv", "--clear", "--seeder", "pip", "--download", "--pip", "bundle", "made"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    return os.listdir(f"made/lib/python3.{sys.version_info[1]}/site-packages") if done.returncode == 0 else done.stderr[-300:]

"""One client of the soak: asks as fast as it is answered until a file says stop, and writes down what it asked and what it got.

Lives here: the program that runs behind outpass, with the applications' packages only. May not live here: anything of outpass, any
judgement. Usage: client.py KIND NAME LOG STOP, KIND one of requests, urllib, httpx1, httpx2, aiohttp, curl, websockets, grpc.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
import urllib.error
import urllib.request

MIX = (
    [("h1.soak.test", "ok")] * 40
    + [("h1.soak.test", "post")] * 8
    + [("h1.soak.test", "big")] * 3
    + [("h2.soak.test", "ok")] * 20
    + [("h1.soak.test", "toggle")] * 6
    + [("h1.soak.test", "no"), ("denied.soak.test", "ok")] * 4
    + [("h1.soak.test", fault) for fault in ("rst", "stall", "half", "500", "short", "junk", "rst-head", "slow")]
)
RIGHTS = ["ok"] * 12 + ["no", "toggle"]
MIXES = {"websockets": [("ws.soak.test", what) for what in RIGHTS], "grpc": [("rpc.soak.test", what) for what in RIGHTS]}
"""What has a protocol of its own has an origin of its own."""


def by_requests():
    import requests

    session = requests.Session()
    return lambda method, url, body: session.request(method, url, data=body, timeout=30).status_code


def by_urllib():
    def ask(method, url, body):
        request = urllib.request.Request(url, data=body, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                answer.read()
                return answer.status
        except urllib.error.HTTPError as error:
            error.read()
            return error.code

    return ask


def by_httpx(http2):
    import httpx

    client = httpx.Client(http2=http2, timeout=30)
    return lambda method, url, body: client.request(method, url, content=body).status_code


def by_aiohttp():
    import aiohttp

    loop = asyncio.new_event_loop()

    async def opened():
        return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30), trust_env=True)

    session = loop.run_until_complete(opened())

    async def request(method, url, body):
        async with session.request(method, url, data=body) as answer:
            await answer.read()
            return answer.status

    return lambda *what: loop.run_until_complete(request(*what))


def by_websockets():
    """A handshake, messages back and forth, the end."""
    from websockets.asyncio.client import connect
    from websockets.exceptions import InvalidStatus

    async def talk(_method, url, _body):
        try:
            async with connect("wss" + url[len("https") :], open_timeout=30) as socket:
                for message in ("a", "b" * 5_000, b"c" * 200_000):
                    await socket.send(message)
                    if await asyncio.wait_for(socket.recv(), 30) != message:
                        raise ValueError("another message came back")
                return 200
        except InvalidStatus as refused:
            return refused.response.status_code

    return lambda *what: asyncio.run(talk(*what))


def by_grpc():
    """One call, with the path as the method; a new channel now and then."""
    import grpc

    channels = []

    def ask(_method, url, _body):
        _, _, host, path = url.split("/", 3)
        if not channels or random.random() < 0.05:
            for old in channels:
                old.close()
            channels[:] = [grpc.secure_channel(f"{host}:443", grpc.ssl_channel_credentials())]
        try:
            channels[0].unary_unary(f"/{path}")(b"x" * random.choice((1, 5_000, 200_000)), timeout=30)
            return 200
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.PERMISSION_DENIED:
                return 403
            raise OSError(error.code().name) from None

    return ask


def by_curl():
    def ask(method, url, body):
        command = ["curl", "-sS", "-o", "/dev/null", "-m", "30", "-w", "%{http_code}", "-X", method, url]
        done = subprocess.run(command + (["--data-binary", "@-"] if body else []), input=body, capture_output=True)
        if done.returncode:
            raise OSError(f"curl {done.returncode}")
        return int(done.stdout)

    return ask


def main(kind, name, log, stop):
    makers = {"requests": by_requests, "urllib": by_urllib, "curl": by_curl, "aiohttp": by_aiohttp}
    makers |= {"websockets": by_websockets, "grpc": by_grpc}
    mix = MIXES.get(kind, MIX)
    ask = makers[kind]() if kind in makers else by_httpx(kind == "httpx2")
    rng = random.Random(name)
    number = 0
    with open(log, "a", buffering=1) as out:
        while not os.path.exists(stop):
            number += 1
            host, what = rng.choice(mix)
            path = f"/{what}/{name}-{number}"
            method, body = ("POST", b"x" * rng.choice((1, 5_000, 200_000))) if what == "post" else ("GET", None)
            if kind == "grpc":
                method = "POST"
            begun = time.time()
            try:
                outcome = ask(method, f"https://{host}{path}", body)
            except Exception as error:
                outcome = type(error).__name__
            out.write(f"{begun:.3f} {time.time():.3f} {host} {method} {path} {outcome}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

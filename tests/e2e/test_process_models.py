"""The ways in which teams start their programs, in a jail, unchanged: each package is charged with its own requests.

Lives here: servers and their workers, reloaders, task queues, kernels, profilers, archives, environments made during the run.
May not live here: ways of starting one script (test_honest_programs.py), programs without a shim (test_programs.py).
"""

from __future__ import annotations

import io
import os
import socket
import subprocess
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import pytest

from tests.support.jailed import impossible
from tests.support.packages import installed
from tests.support.runs import apps
from tests.support.warm import Warm, warm

APP, ALPHA, EVIL = "https://app.example.com/", "https://alpha.example.com/api", "https://evil.example.org/"
POLICY = """version: 1
include: [preset:http-clients, preset:runners]
packages:
  app: {allow: [network:http], http: ["https://app.example.com/"]}
  alpha: {allow: [network:http], http: ["https://alpha.example.com/api"]}
  beta: {allow: [network:http], http: ["https://alpha.example.com/api"]}
  redis: {allow: [network:socket], socket: ["host.outpass.internal:6379"]}
"""
ASK = f"""
import alpha, requests
def ask():
    return [requests.get({APP!r}).status_code, alpha.fetch().status_code, alpha.fetch({APP!r}).status_code, requests.get({EVIL!r}).status_code]
"""
TOLD, SEEN = "[200, 200, 403, 403]", ["app", "alpha"]
"""What `ask()` gives: the application and alpha reach what is theirs, neither the other's, nobody what is nobody's."""

WSGI = ASK + "def app(env, start):\n    start('200 OK', [])\n    return [str(ask()).encode()]\n"
ASGI = ASK + (
    "import anyio\nasync def app(scope, receive, send):\n    if scope['type'] == 'http':\n"
    "        told = (await anyio.to_thread.run_sync(lambda: str(ask()))).encode()\n"
    "        await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n"
    "        await send({'type': 'http.response.body', 'body': told})\n"
)
FLASK = ASK + "import flask\napp = flask.Flask(__name__)\n@app.get('/')\ndef root(): return str(ask())\n"
DJANGO = ASK + (
    "import sys\nfrom django.conf import settings\nfrom django.http import HttpResponse\nfrom django.urls import path\n"
    "settings.configure(DEBUG=True, SECRET_KEY='x', ROOT_URLCONF=__name__, ALLOWED_HOSTS=['*'])\n"
    "urlpatterns = [path('', lambda request: HttpResponse(str(ask())))]\n"
    "from django.core.management import execute_from_command_line\n"
    "if __name__ == '__main__': execute_from_command_line(sys.argv)\n"
)
DRIVER = """
import os, signal, subprocess, sys, time, urllib.request
edit, command = sys.argv[1], sys.argv[2:]
server = subprocess.Popen(command, stdout=2)  # its greeting is not ours
def get(expected):
    told = None
    for _ in range(600):
        try:
            told = urllib.request.urlopen("http://127.0.0.1:8000/").read().decode()
            if expected in told: return told
        except OSError as e: told = e
        time.sleep(0.05)
    return f"not within the deadline: {told}"
print(get("["))
if edit != "-":
    text = open(edit).read()
    open(edit, "w").write(text.replace("str(ask())", "'again ' + str(ask())"))
    print(get("again"))
server.send_signal(signal.SIGTERM)
server.wait(30)
"""


class Model(NamedTuple):
    sentence: str
    files: Mapping[str, str | bytes]
    command: Sequence[str]
    """`PY` is the interpreter of the programs, `BIN/` the directory of the applications' scripts."""
    out: str = TOLD + "\n"
    seen: Sequence[str] = SEEN


def served(what: str, files: Mapping[str, str | bytes], *command: str, edit: str = "-") -> Model:
    again, twice = (f"again {TOLD}\n", 2) if edit != "-" else ("", 1)
    return Model(what, {"drive.py": DRIVER, **files}, ["PY", "drive.py", edit, *command], f"{TOLD}\n{again}", SEEN * twice)


GUNICORN = ("PY", "-m", "gunicorn", "-b", "127.0.0.1:8000")
CELERY = (
    ASK
    + "import celery\napp = celery.Celery('tasks', broker='redis://host.outpass.internal:6379/9', backend='redis://host.outpass.internal:6379/9')\n"
    "app.conf.task_default_queue = 'outpass-{QUEUE}'\n@app.task\ndef work(): return ask()\n"
)
CELERY_DRIVER = """
import signal, subprocess, sys
worker = subprocess.Popen(sys.argv[1:])
import tasks
print(tasks.work.delay().get(timeout=60))
worker.send_signal(signal.SIGTERM)
worker.wait(30)
"""
KERNEL = """
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel(kernel_name="python3")
def run(code):
    client.execute(code)
    out = ""
    while True:
        message = client.get_iopub_msg(timeout=60)
        content = message["content"]
        out += content.get("text", "") if message["msg_type"] == "stream" else str(content.get("evalue", ""))
        if content.get("execution_state") == "idle":
            return out.strip()
print(run(open("cell.py").read() + "print(ask())"))
print(run("import helper; print(helper.ask())"))
manager.shutdown_kernel(now=True)
"""
NOXFILE = """
import nox
@nox.session(venv_params=["--without-pip"])
def tests(session):
    session.run("python", "install.py", silent=True)
    session.run("python", "main.py", silent=False)
"""
TOX = """
[tox]
env_list = tests
[testenv:tests]
skip_install = true
allowlist_externals = *
pass_env = OUTPASS_*, PYTHONPATH
commands =
    python install.py
    python main.py
"""
MAKE = "test:\n\t$(PYTHON) -m venv --without-pip made\n\tmade/bin/python install.py\n\tmade/bin/python main.py\n"
INSTALL = """
import os, sysconfig
site = sysconfig.get_path("purelib")
for file, text in {
    "beta/__init__.py": "from urllib.request import urlopen\\nfrom urllib.error import HTTPError\\n"
        "def fetch(url):\\n    try: return urlopen(url).status\\n    except HTTPError as e: return e.code\\n",
    "beta-1.0.dist-info/METADATA": "Metadata-Version: 2.1\\nName: beta\\nVersion: 1.0\\n",
    "beta-1.0.dist-info/RECORD": "beta/__init__.py,,\\nbeta-1.0.dist-info/METADATA,,\\n",
}.items():
    os.makedirs(os.path.dirname(f"{site}/{file}"), exist_ok=True)
    open(f"{site}/{file}", "w").write(text)
"""
MADE = f"import sys, beta, urllib.request\nassert 'beta' in beta.__file__\nprint([urllib.request.urlopen({APP!r}).status, beta.fetch({ALPHA!r}), beta.fetch({APP!r})], flush=True)\n"


def archive(*entries: tuple[str, str]) -> bytes:
    """A zip archive with these files."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as made:
        for name, text in entries:
            made.writestr(name, text)
    return content.getvalue()


MAIN = "from helper import ask\nprint(ask())\n"
HELPED = {"main.py": MAIN, "helper.py": ASK}
MODELS = [
    served("gunicorn, workers by fork", {"srv.py": WSGI}, *GUNICORN, "-w", "2", "srv:app"),
    served("gunicorn, threads", {"srv.py": WSGI}, *GUNICORN, "-k", "gthread", "--threads", "3", "srv:app"),
    served("gunicorn, uvicorn's workers", {"srv.py": ASGI}, *GUNICORN, "-k", "uvicorn.workers.UvicornWorker", "srv:app"),
    served("flask, reloading", {"srv.py": FLASK}, "PY", "-m", "flask", "--app", "srv", "run", "--reload", "-p", "8000", edit="srv.py"),
    served("django, reloading", {"manage.py": DJANGO}, "PY", "manage.py", "runserver", "8000", edit="manage.py"),
    served("uvicorn, reloading", {"srv.py": ASGI}, "PY", "-m", "uvicorn", "--reload", "srv:app", edit="srv.py"),
    Model("a jupyter kernel over loopback", {"kernel.py": KERNEL, "cell.py": ASK, "helper.py": ASK}, ["PY", "kernel.py"], f"{TOLD}\n{TOLD}\n", SEEN * 2),
    Model("cProfile", HELPED, ["PY", "-m", "cProfile", "-o", "/dev/null", "main.py"]),
    Model("coverage's script", {"main.py": ASK + "print(ask())"}, ["PY", "BIN/coverage", "run", "--data-file=/tmp/data", "main.py"]),
    Model("coverage of a module", {"main.py": ASK + "print(ask())"}, ["PY", "-m", "coverage", "run", "--data-file=/tmp/data", "-m", "main"]),
    Model("debugpy", HELPED | {"main.py": ASK + "print(ask())"}, ["PY", "-Xfrozen_modules=off", "-m", "debugpy", "--listen", "127.0.0.1:5678", "main.py"]),
    Model("a zipapp", {"app.pyz": archive(("__main__.py", MAIN.replace("helper", "in_zip.helper")), ("in_zip/__init__.py", ""), ("in_zip/helper.py", ASK))}, ["PY", "app.pyz"]),
    Model("nox, in an environment that it makes", {"noxfile.py": NOXFILE, "install.py": INSTALL, "main.py": MADE}, ["PY", "-m", "nox", "-v", "-db", "venv"], "...[200, 200, 403]", SEEN),
    Model("tox, in an environment that it makes", {"tox.ini": TOX, "install.py": INSTALL, "main.py": MADE}, ["PY", "-m", "tox", "-q"], "...[200, 200, 403]", SEEN),
    Model("make, in an environment that it makes", {"Makefile": MAKE, "install.py": INSTALL, "main.py": MADE}, ["make", "-s", "test", "PYTHON=BIN/python"], "[200, 200, 403]\n", SEEN),
]  # fmt: skip


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    if why := impossible(os.getuid()):
        pytest.skip(f"no jail is possible here: {why}")
    with warm(
        tmp_path_factory.mktemp("warm"), ("alpha.example.com", "app.example.com", "evil.example.org"), jail=True
    ) as running:
        yield running


def filled(command: Sequence[str], python: str) -> list[str]:
    return [python if word == "PY" else word.replace("BIN", str(apps().parent)) for word in command]


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.sentence)
def test_each_package_is_charged_with_its_own(model: Model, programs: Warm) -> None:
    done = programs.run(POLICY, "", files=model.files, command=lambda python: filled(model.command, python))
    expected = model.out.removeprefix("...")
    assert done.code == 0, done.said()
    assert expected in done.out if model.out.startswith("...") else done.out == expected, done.said()
    # The driver of a reloader asks until it gets the new answer.
    assert done.seen == list(model.seen) if "again" not in expected else {*done.seen} == {*SEEN}, done.said()
    assert "outpass: error" not in done.err, done.said()


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.skipif(not listening(6379), reason="no Redis on 127.0.0.1:6379")
def test_a_celery_worker_with_processes_by_fork(programs: Warm) -> None:
    command = ["PY", "worker.py", "PY", "-m", "celery", "-A", "tasks", "worker", "-c", "2", "-l", "ERROR"]
    files = {"worker.py": CELERY_DRIVER, "tasks.py": CELERY.replace("{QUEUE}", str(os.getpid()))}
    done = programs.run(POLICY, "", files=files, command=lambda python: filled(command, python))
    assert (done.code, TOLD in done.out, done.seen) == (0, True, SEEN), done.said()


FETCH = "from urllib.error import HTTPError\nfrom urllib.request import urlopen\ndef fetch(url):\n    try: return urlopen(url).status\n    except HTTPError as e: return e.code\n"


def distribution(name: str, *files: str) -> dict[str, str]:
    """The metadata of an installed distribution, by path below site-packages."""
    info = f"{name.replace('-', '_')}-1.0.dist-info"
    listed = "".join(f"{file},,\n" for file in (*files, f"{info}/METADATA", f"{info}/RECORD"))
    return {f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", f"{info}/RECORD": listed}


def test_an_editable_install_and_the_parts_of_a_namespace_are_packages_of_their_own(programs: Warm) -> None:
    installed(programs.home, "")
    source = programs.home / "gamma-src"
    source.mkdir()
    (source / "gamma.py").write_text(FETCH)
    for path, text in {
        "_gamma.pth": f"{source}\n",
        **distribution("gamma", "_gamma.pth"),
        "ns/one/__init__.py": FETCH,
        **distribution("ns-one", "ns/one/__init__.py"),
        "ns/two/__init__.py": FETCH,
        **distribution("ns-two", "ns/two/__init__.py"),
    }.items():
        file = programs.site() / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    granted = '{allow: [network:http], http: ["https://alpha.example.com/api"]}'
    main = f"import gamma, ns.one, ns.two\nprint([m.fetch({ALPHA!r}) for m in (gamma, ns.one, ns.two)])"
    done = programs.run(POLICY + f"  gamma: {granted}\n  ns-one: {granted}\n", main)
    assert (done.out, done.seen) == ("[200, 200, 403]\n", ["alpha", "alpha"]), done.said()
    (denial,) = done.summary["denials"]
    assert denial["say"].startswith("ns-two@1.0 may not GET"), done.said()


CHILDREN = f"""
import subprocess, sys
code = "import urllib.request as u\\ntry: print(u.urlopen({APP!r}).status)\\nexcept OSError as e: print(getattr(e, 'code', 'refused'))"
for options, env in (["-I"], None), (["-S"], None), (["-E"], None), ([], {{}}):
    print(subprocess.run([sys.executable, *options, "-c", code], env=env, capture_output=True, text=True).stdout.strip(), flush=True)
"""


def test_python_children_without_a_shim_are_their_starter_s_or_the_cause_is_named(programs: Warm) -> None:
    done = programs.run(POLICY, CHILDREN)
    assert (done.out.split(), done.seen) == (["200", "200", "200", "refused"], ["app"] * 3), done.said()
    (denial,) = done.summary["denials"]
    assert "started without outpass's environment (env={})" in denial["say"], done.said()


def test_a_pex_with_its_own_requests(programs: Warm) -> None:
    source, made = programs.home / "pex-src", programs.home / "app.pex"
    source.mkdir()
    (source / "inside.py").write_text(
        f"import requests\ndef go(): print([requests.get(u).status_code for u in ({APP!r}, {EVIL!r})], requests.__file__)\n"
    )
    pex = [
        apps().parent / "pex",
        "--venv-repository",
        apps().parent.parent,
        "-D",
        source,
        "-e",
        "inside:go",
        "-o",
        made,
        "requests",
    ]
    subprocess.run(pex, env=programs.env, check=True, capture_output=True, timeout=90)
    done = programs.run(POLICY, "", files={"app.pex": made.read_bytes()}, command=lambda _: [str(apps()), "app.pex"])
    assert done.out.startswith("[200, 403] ") and str(apps().parent.parent) not in done.out, done.said()
    assert done.seen == ["app"], done.said()

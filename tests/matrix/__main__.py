"""`make matrix`: every library of rows.py, in old and new versions, on several Pythons, in a jail; writes docs/matrix.md.

Lives here: versions, virtualenvs, running, the table. May not live here: rows. Needs an index, and the Pythons that it names; one that
is not there is left out, and the table says so. A cell is good when the application's request arrives and that of another package,
over the same session, does not.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from tests.matrix.rows import LIBRARIES, WAYS, Library
from tests.support.apps import ROOT
from tests.support.newest import newest
from tests.support.stack_runs import Ran, run_rows

NEWEST = (
    "requests",
    "urllib3",
    "httpx[http2]",
    "aiohttp",
    "websockets",
    "trio",
    "anyio",
    "uvloop",
    "gevent",
    "pycurl",
    "grpcio",
    "curl_cffi",
)
ENVIRONMENTS: Final = [
    ("3.9", "of 2022-23", (
        "requests==2.28.2", "urllib3==1.26.14", "httpx[http2]==0.23.3", "aiohttp==3.8.4", "websockets==11.0.3", "trio==0.22.0",
        "anyio==3.6.2", "uvloop==0.17.0", "gevent==22.10.2", "pycurl==7.45.3", "grpcio==1.51.1", "curl_cffi==0.5.10", "setuptools==68.0.0", "zope.interface==5.5.2", "zope.event==4.6",
    )),
    ("3.11", "of 2024", (
        "requests==2.31.0", "urllib3==2.0.7", "httpx[http2]==0.25.2", "aiohttp==3.9.5", "websockets==12.0", "trio==0.24.0",
        "anyio==4.2.0", "uvloop==0.19.0", "gevent==24.2.1", "pycurl==7.45.3", "grpcio==1.62.2", "curl_cffi==0.7.1",
    )),
    ("3.12", "of 2025", (
        "requests==2.32.3", "urllib3==2.3.0", "httpx[http2]==0.28.1", "aiohttp==3.11.11", "websockets==15.0.1", "trio==0.28.0",
        "anyio==4.8.0", "uvloop==0.21.0", "gevent==24.11.1", "pycurl==7.45.4", "grpcio==1.69.0", "curl_cffi==0.9.0",
    )),
    ("3.10", "newest", NEWEST),
    ("3.13", "newest", NEWEST),
    ("3.13", "newest, niquests", ("niquests", "uvloop", "gevent")),
]  # fmt: skip
MONKEY = "import gevent.monkey; gevent.monkey.patch_all()"
GOOD = "ok"


def main() -> int:
    """Runs every environment and writes the table; 1 if a cell is not good."""
    found = []
    for python, label, pins in ENVIRONMENTS:
        print(f"== {python} {label}", flush=True)
        found.append((python, label, *environment(python, pins)))
    table = written(found)
    out = ROOT / "docs" / "matrix.md"
    out.parent.mkdir(exist_ok=True)
    out.write_text(table)
    bad = sum(cell != GOOD for _, _, _, cells in found for cell in cells.values())
    print(f"written to docs/matrix.md; {bad} cells are not good")
    return bool(bad)


def environment(python: str, pins: tuple[str, ...]) -> tuple[dict[str, str], dict[str, str]]:
    """(versions, cells) of one virtualenv. Cells by `library/way`."""
    with tempfile.TemporaryDirectory(prefix="outpass-matrix-") as directory:
        venv = Path(directory) / "venv"
        versions = newest(venv, python, pins)
        if not versions:
            return {}, {}
        here = [library for library in LIBRARIES if not library.package or library.package in versions]
        cells: dict[str, str] = {}
        for prelude, ways in (("", [w for w in WAYS if w != "gevent"]), (MONKEY, ["gevent"])):
            rows = [library.stack(way) for library in here for way in library.ways if way in ways and _has(way, versions)]
            home = Path(directory) / (ways[0] + "-home")
            home.mkdir()
            ran = run_rows(home, rows, base=venv / "bin" / "python", prelude=prelude)
            broken = {library.name: unimportable(venv, prelude, library.package) for library in here}
            for number, row in enumerate(rows):
                cell = judged(ran, row.name, number)
                cells[row.name] = (broken[row.name.rpartition("/")[0]] or cell) if cell != GOOD else cell
                if cells[row.name] != GOOD:
                    print(f"   {row.name}: {cells[row.name]}", flush=True)
        return versions, cells


def unimportable(venv: Path, prelude: str, package: str) -> str:
    """Why a package cannot be imported here at all, without outpass; "" if it can."""
    module = {"grpcio": "grpc", "": "asyncio"}.get(package, package.replace("-", "_"))
    command = [venv / "bin" / "python", "-c", f"{prelude}\nimport {module}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (
        f"cannot be imported here, without outpass either: {done.stderr.strip().splitlines()[-1][:120]}"
        if done.returncode
        else ""
    )


def _has(way: str, versions: dict[str, str]) -> bool:
    return way not in ("gevent", "uvloop", "trio") or way in versions


def judged(ran: Ran, name: str, number: int) -> str:
    """`ok`, or in a few words why not."""
    got = ran.answers.get(name)
    arrived = [path for path in ran.seen if path.startswith(f"/{number}/")]
    if not isinstance(got, list):
        text = str(got or ran.run.err or "no answer").strip().splitlines()
        return (text[-1] if text else "no answer")[:160]
    if f"/{number}/evil" in arrived:
        return "another package's request arrived"
    if got[0] != 200 or arrived != [f"/{number}/app"]:
        return f"the application got {got[0]}"
    if got[1] != 403 and "evil@6.6.6 may not reach" not in str(got[1]):
        return f"refused without a reason: {str(got[1])[:100]}"
    return GOOD


def written(found: list[tuple[str, str, dict[str, str], dict[str, str]]]) -> str:
    """The document."""
    notes: list[str] = []
    lines = [
        "# Libraries, versions and ways of running them",
        "",
        f"Written by `make matrix` on {time.strftime('%Y-%m-%d')}, never by hand. Each cell is a program in a jail (`outpass run`) in which the application",
        "and an installed package without a grant use one session: **ok** means that the application's request arrived, charged to it, and",
        "that the package's did not, and was refused with its name. A dash: there is no such way, or no such package.",
        "The gevent column is after `gevent.monkey.patch_all()`.",
        "",
    ]
    for python, label, versions, cells in found:
        lines += [f"## Python {python}, {label}", ""]
        if not versions:
            lines += ["Not run: this Python, or one of the packages, could not be had on the machine that wrote this.", ""]
            continue
        loops = ", ".join(
            f"{name} {versions[name]}"
            for name in ("uvloop", "trio", "anyio", "gevent", "httpcore", "h11", "h2")
            if name in versions
        )
        lines += [f"With {loops}.", "", f"| library | version | {' | '.join(WAYS)} |", "|---" * (2 + len(WAYS)) + "|"]
        lines += [
            _line(library, versions, cells, notes) for library in LIBRARIES if not library.package or library.package in versions
        ]
        lines.append("")
    lines += [f"{number}. {note}" for number, note in enumerate(notes, 1)]
    return "\n".join(lines).rstrip() + "\n"


def _line(library: Library, versions: dict[str, str], cells: dict[str, str], notes: list[str]) -> str:
    shown: list[Any] = [library.name, versions.get(library.package, "")]
    for way in WAYS:
        cell = cells.get(f"{library.name}/{way}", "-")
        if cell not in (GOOD, "-"):
            clean = cell.replace("|", "/")
            if clean not in notes:
                notes.append(clean)
            cell = f"no ({notes.index(clean) + 1})"
        shown.append(cell)
    return f"| {' | '.join(map(str, shown))} |"


if __name__ == "__main__":
    sys.exit(main())

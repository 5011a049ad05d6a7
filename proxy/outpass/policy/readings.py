"""What else an origin may take a path for: the readings that a deny rule is held against.

Lives here: from one normal path to every path that some server is known to serve for it. May not live here: rules, verdicts;
the one form that allow rules see (names.path).

An allow rule sees one reading, because a path that it does not expect must not match. A deny rule that sees one reading is
none: servers strip path parameters (Tomcat, Spring: CVE-2020-5410 and kin), merge slashes (nginx), decode escaped slashes or
decode twice, and take `//x/y` for host and path (RFC 3986, section 4.2).
"""

from __future__ import annotations

import re
from typing import Final

from outpass.policy import names

_TELLS: Final = re.compile(r"//|;|%2F|%3B|%25")
_PARAMETERS: Final = re.compile(r"(?:;|%3B)[^/]*")
_SLASHES: Final = re.compile(r"//+")


def readings(path: str) -> list[str]:
    """A normal path first, then its other readings, each once; just the path for nearly every request."""
    if _TELLS.search(path) is None:
        return [path]
    found = [path]
    if "%25" in path:
        found += _decoded_again(path)
    found += [p[p.find("/", 2) :] for p in found if p.startswith("//") and "/" in p[2:]]
    found += [p.replace("%2F", "/") for p in found]
    found += [_PARAMETERS.sub("", p) or "/" for p in found]
    found += [_SLASHES.sub("/", p) for p in found]
    return list(dict.fromkeys(found))


def _decoded_again(path: str) -> list[str]:
    """The path of an origin that decodes twice; none where that is no path (then it serves nothing for it)."""
    try:
        return [names.path(path.replace("%25", "%"))]
    except ValueError:
        return []

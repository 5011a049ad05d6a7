"""Which module belongs to which package: recorded by identity when it is imported, named when a frame of it is met.

Lives here: the table of module dictionaries, the loader hook, the classification of files by the broker's map. May not live
here: frames (_chain), the wire (_session).

A frame is known by the identity of its globals, which the import system made and this module saw being made; never by
`co_filename`, `__name__` or `__file__`, which any code may set. Code whose globals were not made by an import of a source
loader is only *claimed*: its file's package with `!` before it.
"""

import _frozen_importlib_external as _external
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType as FrameType
    from typing import Any as Any
else:
    Any = FrameType = object  # for all rooms: typing is not loaded into programs that do without it

APP, UNKNOWN = "app", "?"
# Kinds of module that are not charged. Kept apart because the rules for instruments and event loops ask for them.
STDLIB, HTTP, SHIM, DYNAMIC, LOOP, LOOP_BASE = " stdlib", " http", " shim", " dynamic", " loop", " loop-base"
SKIPPED = frozenset((STDLIB, HTTP, SHIM, LOOP, LOOP_BASE))
INSTRUMENT = "~"
"""Prefix of the name of an instrumentation."""

# NOTE: object.__hash__ is the identity, as id() is, but raises no audit event (id() does from 3.12 on: 3-5x slower hooked).
key = object.__hash__
names: "dict[int, str]" = {}
"""Identity of a module's dictionary → its name or kind. The hot path reads it directly."""
known: "dict[int, tuple[dict[str, Any], str, float, bool]]" = {}
"""Identity → (the dictionary, kept so that its identity is never reused; file; its mtime at import; before the shim)."""

_shim = os.path.dirname(__file__) + "/"
_stdlib = os.path.dirname(os.__file__) + "/"
_http_modules = tuple(_stdlib + m for m in ("http/", "urllib/", "xmlrpc/", "socket.py", "ssl.py"))
_loops = {_stdlib + "asyncio/events.py": LOOP, _stdlib + "asyncio/base_events.py": LOOP_BASE}
_claims: "dict[str, str]" = {}
_started = 0.0
_map: "Map | None" = None


def start(now: float) -> None:
    """Hooks the source loaders and records the modules that there are already. `now`: seconds since the epoch."""
    global _started
    _started = now
    base = _external._LoaderBasics
    # Exactly these: a subclass can return any code for any path.
    trusted = (_external.SourceFileLoader, _external.SourcelessFileLoader)
    original = base.exec_module
    zipped = getattr(sys.modules.get("zipimport"), "zipimporter", None)

    def exec_module(self: Any, module: Any) -> None:
        if type(self) in trusted:
            register(module.__dict__, self.path)
        elif type(self) is zipped:
            self = zipped(self.archive + "/" + self.prefix)  # one in which nobody has written
            register(module.__dict__, self.get_filename(module.__name__))
        original(self, module)

    base.exec_module = exec_module  # type: ignore[method-assign]
    for name, module in list(sys.modules.items()):
        namespace = getattr(module, "__dict__", None)
        if name == "__main__":
            register(module.__dict__, "")
        elif type(namespace) is dict:
            register(namespace, getattr(module, "__file__", None) or "<frozen>", early=True)


def register(namespace: "dict[str, Any]", path: str, early: bool = False) -> None:
    """Records that this dictionary is of a module loaded from `path`, with its mtime while it is being read. "" is `__main__`."""
    path = _plain(path)
    modified = _modified(path) if path[:1] == "/" else 0.0
    number = key(namespace)
    earlier = known.get(number)
    if earlier is not None and earlier[1] != path:
        # A loader told to run somebody else's file in a module that has a name: it does not get that file's name, and what
        # it is now nobody can tell.
        path, modified = earlier[1] or path, float("inf")
    known[number] = (namespace, path, modified, early)
    names.pop(number, None)
    if path in _loops:
        names[number] = _loops[path]


def _plain(path: str) -> str:
    """An absolute path without dots: `/srv/app/../evil/x.py` begins with the application's directory, and is not there."""
    if not path or path[0] == "<":
        return path
    if path[0] != "/":
        path = os.path.abspath(path)
    return os.path.realpath(path) if "/../" in path or "/./" in path or "//" in path else path


def _modified(path: str) -> float:
    """When the file was written last, in seconds since the epoch; infinity if that cannot be known."""
    try:
        return _stat(path).st_mtime
    except OSError:
        return float("inf")


def _stat(path: str) -> "os.stat_result":
    """Of a file, or of the archive that `path` goes on in (a zipapp's modules). Raises OSError."""
    while True:
        try:
            return os.stat(path)
        except NotADirectoryError:
            path = os.path.dirname(path)


def mapped() -> bool:
    """Whether frames can be named: the process has (or, before a fork, its parent had) the broker's map."""
    return _map is not None


def resolve(namespace: "dict[str, Any]", filename: str) -> str:
    """The name for a frame whose globals are not in `names` yet."""
    number = key(namespace)
    found = known.get(number)
    if found is None or _map is None:
        return claim(filename)
    _, path, modified, early = found
    names[number] = _classify(path, modified, early) if path else _main()
    return names[number]


def claim(filename: str) -> str:
    """The name for code of which only a file name is known: `!name`, or DYNAMIC where the file name tells nothing."""
    name = _claims.get(filename)
    if name is None:
        name = _classify(_plain(filename), 0.0, False) if filename[:1] == "/" and _map else DYNAMIC
        if name in SKIPPED:
            name = DYNAMIC  # it says that it is the standard library's, but was not imported as such
        elif name not in (DYNAMIC, UNKNOWN) and name[0] != "!":
            name = "!" + name.lstrip(INSTRUMENT)
        _claims[filename] = name
    return name


def _main() -> str:
    """`__main__` at launch is the application; that of a subinterpreter is whatever code made it."""
    for name in ("_interpreters", "_xxsubinterpreters"):
        try:
            module = __import__(name)
        except ImportError:
            continue
        current, first = (n[0] if isinstance(n, tuple) else n for n in (module.get_current(), module.get_main()))
        return APP if current == first else UNKNOWN
    return APP


def _classify(path: str, modified: float, early: bool) -> str:
    if path.startswith(_shim):
        return SHIM
    if path[0] == "<":
        return STDLIB  # registered, and without a file: frozen or built in
    assert _map is not None
    real, name = os.path.realpath(path), _map.owner(path)
    if real != path:
        # A link puts a file anywhere. Where it leads to somebody's file, that one's it is; where it leads to nobody's (a
        # cache, a directory that projects share), what was found by it belongs to the place that it was found in.
        led = _map.owner(real)
        name = led if name is None or led not in (None, APP) else name
    name = name or UNKNOWN
    if name == APP:
        # Present at launch, and not placed there by something that ran before the application.
        return "!app" if modified > _started or early or _placed(path) > _started else APP
    if name in SKIPPED or name == UNKNOWN:
        return name if modified <= _started else UNKNOWN
    if modified > min(_map.built, _started):
        return "!" + name
    return HTTP if _map.transparent(name) else INSTRUMENT + name if _map.instrument(name) else name


def _placed(path: str) -> float:
    """When the file got its place and its content. An mtime can be set back by whoever wrote the file (T1070.006), this
    cannot. Asked for the application's own files only: installers hard-link those of packages, which changes it too."""
    try:
        return _stat(path).st_ctime
    except OSError:
        return float("inf")


class Map:
    """The broker's map of files to distributions (PROTOCOL.md, "The map file"), with the lists of the hello's answer."""

    def __init__(self, content: "dict[str, Any]", hello: "dict[str, Any]") -> None:
        self.built: float = content["built"]
        self._files, self._dirs, self._editable = content["files"], content["dirs"], content["editable"]
        self._sites = tuple(s.rstrip("/") + "/" for s in content["sites"])
        self._roots = tuple(r.rstrip("/") + "/" for r in hello["roots"])
        self.transparent, self.instrument = _matcher(hello["transparent"]), _matcher(hello["instruments"])

    def owner(self, path: str) -> "str | None":
        """Distribution, APP, a kind of the standard library, `?` for an unowned file in a site, None for none of them."""
        if path in self._files:
            return sys.intern(self._files[path])
        site = max((s for s in self._sites if path.startswith(s)), key=len, default="")
        directory = os.path.dirname(path)
        while len(directory) >= len(site) and len(directory) > 1:
            if directory in self._dirs:
                return sys.intern(self._dirs[directory])
            directory = os.path.dirname(directory)
        if site:
            return UNKNOWN
        if path.startswith(_stdlib):
            # A site-packages (Debian: dist-packages) below it that is not on the path that the broker saw is not it.
            return UNKNOWN if "-packages/" in path else HTTP if path.startswith(_http_modules) else STDLIB
        for prefix in sorted(self._editable, key=len, reverse=True):
            if path.startswith(prefix):
                return sys.intern(self._editable[prefix])
        return APP if path.startswith(self._roots) else None


def _matcher(patterns: "Iterable[str]") -> Any:
    """Names, or prefixes that end in `*` (the only wildcard that names of distributions need)."""
    exact = frozenset(p for p in patterns if not p.endswith("*"))
    prefixes = tuple(p[:-1] for p in patterns if p.endswith("*"))
    return lambda name: name in exact or name.startswith(prefixes)


def adopt(new: Map) -> None:
    """Takes the session's map; what was named by an earlier one is named anew."""
    global _map
    _map = new
    for number in [n for n, name in names.items() if name not in (LOOP, LOOP_BASE)]:
        del names[number]
    _claims.clear()

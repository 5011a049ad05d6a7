"""Who is asking: from the frames of a call to the chain of principals that must hold the right (DESIGN.md, section 3).

Lives here: the walk, its rules for instruments, event loops and dynamic code, the recorded origin. May not live here: which
file is whose (_registry), where an origin is recorded (_origin).
"""

import sys
from _contextvars import ContextVar

from outpass_shim import _registry
from outpass_shim._registry import APP, DYNAMIC, HTTP, INSTRUMENT, LOOP, LOOP_BASE, SHIM, SKIPPED, STDLIB, UNKNOWN, Any, FrameType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType
    from typing import Union

    Origin = Union["Raw", "tuple[str, ...]"]

MAX_CHAIN = 64

origin: "ContextVar[Origin | None]" = ContextVar("outpass_origin", default=None)
"""Who started this thread, task or callback."""

loop_runs: "dict[int, tuple[CodeType, int]]" = {}
"""Identity of code that runs a loop (trio's; ours for uvloop, which has no frames of its own) → that code, and the identity of
the globals that it must have: what is below it did not ask for the callback. NOTE: never a code object as a key: its hash
reads its whole bytecode each time, 2 µs a frame."""

_names = _registry.names
_key = _registry.key


class Raw(list):  # type: ignore[type-arg]
    """A stack kept to be named later, because the process has no session yet and may never need one.

    Innermost first, with what started it behind: the identity of a known module's dictionary, else a file name. Each once, so
    a callback that schedules itself for ever does not grow.
    """


def name_of(frame: "FrameType") -> str:
    globals_ = frame.f_globals
    return _names.get(_key(globals_)) or _registry.resolve(globals_, frame.f_code.co_filename)


def principals(frame: "FrameType | None") -> "tuple[str, ...]":
    """The whole chain, nearest first. It ends in `app`, or with the recorded origin, or in `?`. At most 64 entries."""
    return _complete(_walk(frame), origin.get())


def capture(stand_in: "CodeType | None" = None) -> "Origin":
    """What to record as an origin. `stand_in`: code of whatever now wraps the function that was called to start something;
    it is nobody's wish, and without a session the rule for instruments cannot be asked."""
    frame: FrameType | None = sys._getframe(1)
    if _registry.mapped():
        return principals(frame)
    entries: dict[Any, None] = {}
    while frame is not None and not _runs_callback(frame) and not _runs_loop(frame):
        if frame.f_code is not stand_in:
            number = _key(frame.f_globals)
            entries.setdefault(number if number in _registry.known else frame.f_code.co_filename)
        frame = frame.f_back
    return Raw(entries | dict.fromkeys(origin.get() or ()))


def _complete(chain: "list[str]", started_by: "Origin | None") -> "tuple[str, ...]":
    if not chain or chain[-1] != APP:
        if isinstance(started_by, Raw):
            started_by = _complete(_walk_raw(started_by), None)
        chain += [name for name in started_by or (UNKNOWN,) if name not in chain]
    # PROTOCOL.md: what is cut ends in `?`, because nobody vouches for what is not there.
    return tuple(chain) if len(chain) <= MAX_CHAIN else (*chain[: MAX_CHAIN - 1], UNKNOWN)


def run_by(code: "CodeType", globals_: "dict[str, Any]") -> None:
    """This code runs a loop."""
    loop_runs[_key(code)] = code, _key(globals_)


def _runs_loop(frame: "FrameType") -> bool:
    found = loop_runs.get(_key(frame.f_code))
    return found is not None and found[1] == _key(frame.f_globals)


def _runs_callback(frame: "FrameType") -> bool:
    """Whether this is Handle._run, called by the loop: below it is the loop's owner, who did not ask for the callback."""
    if _names.get(_key(frame.f_globals)) is not LOOP or frame.f_code.co_name != "_run" or frame.f_back is None:
        return False
    return _names.get(_key(frame.f_back.f_globals)) is LOOP_BASE


def _walk(frame: "FrameType | None") -> "list[str]":
    """Principals on the stack, up to the first `app` or the event loop that runs this callback."""
    out: list[str] = []
    get, key, skipped, loops = _names.get, _key, SKIPPED, loop_runs
    inner: FrameType | None = None
    last, dynamic = "", False
    while frame is not None:
        name = get(key(frame.f_globals)) or name_of(frame)
        if loops and key(frame.f_code) in loops and _runs_loop(frame):
            break
        if name is last:
            pass
        elif name in skipped:
            if name is LOOP and _runs_callback(frame):
                break
        elif name is DYNAMIC:
            dynamic = dynamic or not out
        else:
            if name[0] == INSTRUMENT:
                if name[1:] in out:  # charged already: where else it stands changes nothing
                    inner, frame = frame, frame.f_back
                    continue
                outer = _outer(frame, name)
                if _hosted(frame, inner, outer, bool(out)):
                    inner, frame = None, outer
                    continue
                name = name[1:]
            if name == APP and dynamic and not out:
                out.append(UNKNOWN)  # exec'd code that app called; whose it is, nothing proves
            if name not in out:
                out.append(name)
            if name == APP:
                return out
            last = name
        inner, frame = frame, frame.f_back
    return [*out, UNKNOWN] if dynamic and not out else out


def _walk_raw(entries: Raw) -> "list[str]":
    """The same over a recorded stack, as far as names go: without frames no instrument can prove where it stands."""
    named = [
        _names.get(e) or _registry.resolve(*_registry.known[e][:2]) if isinstance(e, int) else _registry.claim(e) for e in entries
    ]
    out: list[str] = []
    for i, name in enumerate(named):
        after = named[i + 1] if i + 1 < len(named) else ""
        if name in SKIPPED or (name[0] == INSTRUMENT and (after is HTTP or (out and after in SKIPPED))):
            continue
        if name is DYNAMIC:
            name = UNKNOWN if not out and after in ("", APP) else ""
        name = name.lstrip(INSTRUMENT)
        if name and name not in out:
            out.append(name)
        if name == APP:
            break
    return out


def _outer(frame: "FrameType", name: str) -> "FrameType | None":
    """The first frame outward that is not the same instrument's."""
    outer = frame.f_back
    while outer is not None and name_of(outer) == name:
        outer = outer.f_back
    return outer


def _hosted(frame: "FrameType", inner: "FrameType | None", outer: "FrameType | None", charged: bool) -> bool:
    """Whether an instrumentation (its frames are `frame` up to before `outer`) only stands in another's way.

    It does where an HTTP library calls it, where it stands in the place of a function of an HTTP library or the standard
    library that it then calls, and where the standard library runs it around code that is charged already (wrapped threads
    and tasks). An exporter that sends by itself is none of these: it is charged.
    """
    if outer is not None:
        name = name_of(outer)
        if name is HTTP or (charged and name in (STDLIB, LOOP, LOOP_BASE)):
            return True
    if inner is None or name_of(inner) not in (HTTP, STDLIB, SHIM):
        return False
    codes = set()
    walk: FrameType | None = frame
    while walk is not outer and walk is not None:
        codes.add(_key(walk.f_code))
        walk = walk.f_back
    return any(_key(code) in codes for code in _codes_at(inner))


def _codes_at(inner: "FrameType") -> "list[Any]":
    """What the names by which `inner` was called lead to now: its own code, or that of whoever replaced it."""
    code, found = inner.f_code, []
    try:
        places = [inner.f_globals.get(code.co_name)]
        if code.co_argcount:
            owner = inner.f_locals[code.co_varnames[0]]
            places += [getattr(owner, code.co_name, None), getattr(type(owner), code.co_name, None)]
        for place in places:
            # wrapt's FunctionWrapper keeps the instrumentation's function here
            found += [getattr(getattr(place, "_self_wrapper", None), "__code__", None), getattr(place, "__code__", None)]
    except Exception:
        return []
    return [c for c in found if c is not None]

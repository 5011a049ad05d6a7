"""Carries "who started this" to where it runs, in one private context variable.

Lives here: threads, executors, tasks, copied contexts, exit handlers. May not live here: how a chain is worked out (_chain).

Call_soon, call_later and add_reader need no patch of their own: each makes a Handle, which copies the context here.
"""

import sys

from outpass_shim import _registry
from outpass_shim._chain import capture, name_of, origin, run_by
from outpass_shim._registry import LOOP, LOOP_BASE, STDLIB, Any, FrameType


def threads(module: Any) -> None:
    """threading.Thread: the stack of start() becomes the origin of the thread (Timer and pools are threads too)."""
    thread = module.Thread
    original_start, original_bootstrap = thread.start, thread._bootstrap_inner

    def start(self: Any) -> None:
        self._outpass_origin = capture(getattr(type(self).start, "__code__", None))
        original_start(self)

    def _bootstrap_inner(self: Any) -> None:
        started_by = getattr(self, "_outpass_origin", None)
        origin.set(started_by)
        context = getattr(self, "_context", None)  # 3.14 runs the thread in a context of its own
        if context is not None:
            context.run(origin.set, started_by)
        original_bootstrap(self)

    thread.start, thread._bootstrap_inner = start, _bootstrap_inner


def executors(module: Any) -> None:
    """concurrent.futures.ThreadPoolExecutor, and with it loop.run_in_executor: the submitter, not the pool's owner."""
    item = module._WorkItem
    original_init, original_run = item.__init__, item.run

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original_init(self, *args, **kwargs)
        self._outpass_origin = capture()

    def run(self: Any, *args: Any, **kwargs: Any) -> None:
        carried(self._outpass_origin, original_run, self, *args, **kwargs)

    item.__init__, item.run = __init__, run


def tasks(module: Any, loop: Any = None) -> None:
    """asyncio.create_task, gather, TaskGroup, run: all come to the loop's create_task."""
    loop = loop or module.BaseEventLoop
    original = loop.create_task

    def create_task(self: Any, coro: Any, **kwargs: Any) -> Any:
        started_by = capture()
        context = kwargs.get("context")
        if context is not None:
            context.run(origin.set, started_by)
            return original(self, coro, **kwargs)
        # Not a copied context: task factories written before 3.11 take no `context`.
        return carried(started_by, original, self, coro, **kwargs)

    loop.create_task = create_task


def uvloops(module: Any) -> None:
    """uvloop.Loop: it makes its handles and runs them in C, where no frame says which loop runs what for whom."""
    loop = module.Loop

    def carrying(name: str) -> None:
        original = getattr(loop, name)

        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            # Asyncio's own timers and wake-ups inherit, as they do with its own loops.
            if kwargs.get("context") is not None or _by_the_library(sys._getframe(1), name):
                return original(self, *args, **kwargs)
            return carried(capture(), original, self, *args, **kwargs)

        call.__name__, call.__doc__ = name, original.__doc__
        setattr(loop, name, call)

    def running(name: str) -> None:
        original = getattr(loop, name)

        def run(self: Any, *args: Any) -> Any:
            return carried(capture(), run_loop, original, self, *args)

        run.__name__, run.__doc__ = name, original.__doc__
        setattr(loop, name, run)

    def run_loop(original: Any, *args: Any) -> Any:
        return original(*args)

    run_by(run_loop.__code__, globals())
    for name in ("call_soon", "call_soon_threadsafe", "call_later", "call_at", "add_reader", "add_writer", "add_signal_handler"):
        carrying(name)
    tasks(module, loop)
    running("run_forever")
    running("run_until_complete")


def trios(module: Any) -> None:
    """trio._core._run: tasks copy a context when they are started (`contexts`); what runs them all is no wish of theirs."""
    run_by(module.unrolled_run.__code__, module.__dict__)


_STARTS = "run_coroutine_threadsafe"
"""Of asyncio's own calls of call_soon the one by which a thread puts somebody's work on another thread's loop."""


def _by_the_library(frame: FrameType, name: str) -> bool:
    return _registry.mapped() and name_of(frame) is STDLIB and not name.startswith("add_") and frame.f_code.co_name != _STARTS


def carried(started_by: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
    """Calls `function` with another origin."""
    token = origin.set(started_by)
    try:
        return function(*args, **kwargs)
    finally:
        origin.reset(token)


def contexts(module: Any) -> None:
    """contextvars.copy_context: asyncio's handles, to_thread, and frameworks that carry contexts to threads."""
    original = module.copy_context

    def copy_context() -> Any:
        context = original()
        if not _of_the_loop(sys._getframe(1)):
            context.run(origin.set, capture())
        return context

    copy_context.__doc__ = original.__doc__
    module.copy_context = copy_context


def _of_the_loop(frame: "FrameType | None") -> bool:
    """Whether asyncio makes a handle for itself (timeouts, transports): these inherit, at no cost."""
    if not _registry.mapped() or frame is None or name_of(frame) is not LOOP:
        return False
    while frame is not None and name_of(frame) in (LOOP, LOOP_BASE):
        frame = frame.f_back
    return frame is not None and name_of(frame) is STDLIB and not frame.f_code.co_name.startswith(("add_", "_add_", _STARTS))


class _Exit:
    """An exit handler with its origin; equal to what was registered, so that atexit.unregister finds it."""

    def __init__(self, function: Any, started_by: Any) -> None:
        self.function, self.started_by = function, started_by

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return carried(self.started_by, self.function, *args, **kwargs)  # what comes after it may have none

    def __eq__(self, other: object) -> bool:
        return bool(self.function == other)

    def __hash__(self) -> int:
        return hash(self.function)


def exits(module: Any) -> None:
    """atexit.register: whoever registered it."""
    original = module.register

    def register(func: Any, /, *args: Any, **kwargs: Any) -> Any:
        original(_Exit(func, capture()), *args, **kwargs)
        return func

    register.__doc__ = original.__doc__
    module.register = register

"""What runs code by itself, known by name: runpy, profilers, coverage, pytest's assertion rewriter, IPython's namespace.

Lives here: these. May not live here: loaders in general; code from an unknown one is only claimed (_registry).
"""

import builtins
import sys

from outpass_shim import _registry
from outpass_shim._lazy import RUNNERS
from outpass_shim._registry import Any


def runpy(module: Any) -> None:
    """run_path and run_module are what their files are: so multiprocessing's children load the parent's main module."""
    original = module._run_code

    def _run_code(code: Any, run_globals: Any, *args: Any, **kwargs: Any) -> Any:
        _prove(code, run_globals)
        spec = kwargs.get("mod_spec", args[2] if len(args) > 2 else None)
        if getattr(spec, "name", "") in RUNNERS:
            run_globals["exec"] = _exec  # `python -m cProfile`: it is `__main__`, so no import of it is seen
        return original(code, run_globals, *args, **kwargs)

    module._run_code = _run_code


def runner(module: Any) -> None:
    """The program that one of RUNNERS runs is what its file is."""
    module.exec = _exec


def _exec(code: Any, globals_: Any = None, locals_: Any = None, /, **kwargs: Any) -> None:
    """The built-in exec, for code that is a whole file's."""
    if globals_ is None:
        caller = sys._getframe(1)
        globals_ = caller.f_globals
        locals_ = caller.f_locals if locals_ is None else locals_
    _prove(code, globals_)
    builtins.exec(code, globals_, locals_, **kwargs)  # noqa: S102


def _prove(code: Any, namespace: Any) -> None:
    """Records what is about to run in `namespace`, if that is what the file that it names compiles to."""
    # A namespace that is known already (`__main__`) stays what it is.
    if type(namespace) is dict and _registry.key(namespace) not in _registry.known and _is_of_its_file(code):
        _registry.register(namespace, code.co_filename)


def _is_of_its_file(code: Any) -> bool:
    """Whether this is what the file that it names compiles to. Anybody can call runpy with code that names any file."""
    path = getattr(code, "co_filename", "")
    try:
        with open(path, "rb") as file:
            return bool(compile(file.read(), path, "exec", dont_inherit=True) == code)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def pytest(module: Any) -> None:
    """Test modules, conftest files and plugins that pytest rewrites are what their files are."""
    hook = module.AssertionRewritingHook
    original = hook.exec_module

    def exec_module(self: Any, module: Any) -> None:
        spec = module.__spec__
        if spec is not None and spec.origin:
            _registry.register(module.__dict__, spec.origin)
        original(self, module)

    hook.exec_module = exec_module


def ipython(module: Any) -> None:
    """Cells run in the user's namespace, which is `__main__` in all but the making."""
    shell = module.InteractiveShell
    original = shell.init_user_ns

    def init_user_ns(self: Any) -> None:
        original(self)
        for namespace in {id(n): n for n in (self.user_ns, self.user_module.__dict__)}.values():
            _registry.register(namespace, "")

    shell.init_user_ns = init_user_ns

"""What site.py finds first on PYTHONPATH: installs the shim, steps out of the way, runs the next sitecustomize.

Lives here: loading the package by path, because outpass's own site-packages must not become importable for the program.
May not live here: anything else. An installation that fails leaves a process without passes, which the gate refuses.
"""

import os
import sys

_HERE = os.path.dirname(__file__)


def _install() -> None:
    import _frozen_importlib
    import _frozen_importlib_external as external

    # NOTE: these two are what importlib.util re-exports; importing that module costs more than the rest of the start.
    where = os.path.dirname(_HERE)
    spec = external.spec_from_file_location(
        "outpass_shim", os.path.join(where, "__init__.py"), submodule_search_locations=[where]
    )
    assert spec is not None and spec.loader is not None
    package = _frozen_importlib.module_from_spec(spec)
    sys.modules["outpass_shim"] = package
    spec.loader.exec_module(package)
    from outpass_shim import _boot

    _boot.install()


def _chain_load() -> None:
    """Runs the sitecustomize that ours shadows, under its own name. Its errors are reported by site.py as usual."""
    mine = sys.modules.pop("sitecustomize")
    try:
        __import__("sitecustomize")
    except ImportError as e:
        if e.name != "sitecustomize":
            raise
    finally:
        sys.modules.setdefault("sitecustomize", mine)


if os.environ.get("OUTPASS_MINT") and "outpass_shim" not in sys.modules:
    try:
        _install()
    except Exception as e:
        sys.stderr.write(f"outpass: error: the shim could not be installed: {type(e).__name__}: {e}\n")
        sys.stderr.write("outpass: hint: requests of this process carry no passes, so the gate refuses them\n")
# Only this process forgets the directory. PYTHONPATH keeps it, so that children get the shim too.
sys.path[:] = [p for p in sys.path if p != _HERE]
_chain_load()

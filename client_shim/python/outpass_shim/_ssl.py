"""Trust in the outpass CA, in addition to whatever the program trusts: also where it pins certifi's bundle.

Lives here: SSLContext's ways of loading trust. May not live here: turning verification off, which nothing here does.
"""

from outpass_shim import _boot, _wire
from outpass_shim._registry import Any


def patch(module: Any) -> None:
    """SSLContext.load_verify_locations, load_default_certs and set_default_verify_paths also load OUTPASS_CA."""
    if not _boot.CA:
        return
    try:
        with open(_boot.CA, encoding="ascii") as file:
            ca = file.read()
    except (OSError, ValueError) as e:
        _wire.say("error", f"the outpass ca cannot be read, so https through the gate fails: {e}")
        return
    context = module.SSLContext
    load = context.load_verify_locations

    def also(name: str) -> None:
        original = getattr(context, name)

        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(self, *args, **kwargs)
            load(self, cadata=ca)
            return result

        call.__name__, call.__doc__ = name, original.__doc__
        setattr(context, name, call)

    for name in ("load_verify_locations", "load_default_certs", "set_default_verify_paths"):
        also(name)

"""`python -m outpass.gate --control FD`: how the broker starts a gate. Nobody else does.

Lives here: the command line, and what has to happen before the engine is imported. May not live here: anything else.
"""

from __future__ import annotations

import argparse
import os
import sys


def main() -> int:
    """Run a gate; exit 125 with a message when it cannot start."""
    parser = argparse.ArgumentParser(prog="python -m outpass.gate", description="started by outpass; not a command")
    parser.add_argument("--control", type=int, required=True, metavar="FD", help="inherited SEQPACKET socket")
    parser.add_argument("--spare", action="store_true", help="it was started before it is needed, and may wait for long")
    control: int = parser.parse_args().control
    # The engine reads these when it is imported, and from then on writes the keys of every TLS session to that file.
    for name in ("SSLKEYLOGFILE", "MITMPROXY_SSLKEYLOGFILE"):
        os.environ.pop(name, None)
    from outpass.gate.engine import bare

    bare.prepare()
    from outpass.errors import OutpassError
    from outpass.gate import serve

    try:
        return serve.run(control)
    except OutpassError as error:
        print(f"outpass: error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"outpass: hint: {error.hint}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())

"""`make demo`: the main job in a minute. Two real packages, two local HTTPS origins, one refusal explained.

Lives here: the stage. May not live here: anything that the product needs; what it shows is the ordinary command line.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.apps import application_venv  # noqa: E402  (the checkout is not a package)
from tests.support.origin import Origin  # noqa: E402

STAGE = ROOT / ".outpass-demo"
OUTPASS = ROOT / ".venv" / "bin" / "outpass"
CHARGE = {"id": "ch_demo", "object": "charge", "amount": 4200, "currency": "eur", "status": "succeeded"}


def title(text: str) -> None:
    """A heading between the acts."""
    print(f"\n\033[1m── {text}\033[0m" if sys.stdout.isatty() else f"\n── {text}", flush=True)


def show(command: list[str], env: dict[str, str], told: str | None = None) -> int:
    """Prints a command as a person would type it, and runs it."""
    print(f"$ {told or ' '.join(command)}", flush=True)
    return subprocess.run(command, env=env, cwd=ROOT / "tools" / "demo", check=False).returncode


def main() -> int:
    """Exit 0 when the demo showed what it promises: stripe answered, slack-sdk refused, nothing at slack's origin."""
    python = application_venv(STAGE / "venv", ROOT / "constraints" / "demo.txt")
    shutil.rmtree(STAGE / "state", ignore_errors=True)
    env = {**os.environ, "OUTPASS_STATE": str(STAGE / "state" / "audit.db")}
    env.pop("OUTPASS_SOCKET", None)
    with Origin(("api.stripe.com", "slack.com", "www.slack.com"), answers={"/v1/charges/ch_demo": CHARGE}) as origin:
        title("a program with two packages, stripe and slack-sdk, and a policy that names one of them")
        print((ROOT / "tools" / "demo" / "outpass.yaml").read_text().strip())
        title("the same program, behind outpass (both hosts are played by a local HTTPS server)")
        # --connect-to and --upstream-ca stand for DNS and the web's CAs: this demo never leaves the machine
        stage = [*origin.connect_to(), "--upstream-ca", str(origin.ca_file)]
        jailed = subprocess.run([OUTPASS, "doctor", "--json"], env=env, capture_output=True, check=False).returncode == 0
        jail = [] if jailed else ["--no-jail"]  # a container without user namespaces can still show the rest
        run = [str(OUTPASS), "run", "--policy", "outpass.yaml", *jail, *stage, "--", str(python), "app.py"]
        code = show(run, env, " ".join(["outpass run --policy outpass.yaml", *jail, "-- python app.py"]))
        title("every decision was recorded")
        show([str(OUTPASS), "log"], env, "outpass log")
        title("and can be asked for beforehand")
        ask = ["explain", "--policy", "outpass.yaml", "slack-sdk,app", "POST", "https://slack.com/api/chat.postMessage"]
        show([str(OUTPASS), *ask], env, f"outpass {' '.join(ask)}")
        arrived = sorted({seen.host for seen in origin.seen})
        print(f"\nwhat arrived at the local origin: {', '.join(arrived) or 'nothing'}")
    ok = code == 0 and arrived == ["api.stripe.com"]
    print("the demo went as it should" if ok else "outpass: error: the demo did not go as it should", flush=True)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())

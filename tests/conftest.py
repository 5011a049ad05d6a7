"""What holds for every test: property tests are judged by what they find, never by how fast this machine is today; signals do
what they do at a terminal, though whatever started the tests in its background may have had them ignored (POSIX `&`, nohup).

Lives here: settings of the test tools. May not live here: fixtures; and nothing that tests/shim could not import on an old Python.
"""

from __future__ import annotations

import signal

for _signal, _usual in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_signal) == signal.SIG_IGN:
        signal.signal(_signal, _usual)

try:
    from hypothesis import HealthCheck, settings
except ImportError:  # tests/shim runs on Pythons that have pytest and nothing else
    pass
else:
    settings.register_profile("outpass", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
    settings.load_profile("outpass")

"""Passes: what the broker signs and the gate honours once.

Lives here: the pass format (`token`) and the one-use ledger (`ledger`). May not live here: sockets, clocks, key storage,
and the question whether a request is allowed (policy/). All pure: clock, key and shared memory are arguments.
"""

"""outpass: its own leave to use the network for every package in a process.

Lives here: the version. May not live here: anything else.
"""

__version__ = "0.1.0"

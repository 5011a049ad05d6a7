"""The command line: one file a command; arguments in, calls out.

Lives here: click, rich, words for people. May not live here: logic that a test would want to call without a terminal.
"""

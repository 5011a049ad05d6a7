"""The policy room: the only place in outpass that says yes or no, and the nouns of names and rules that it says it about.

Lives here: names in normal form, the schema, rules, matching, deciding, explaining, layering. All of it pure: the clock,
the environment and the files' text are arguments. May not live here: I/O, YAML, sockets, a terminal, any engine.

    document → shape → schema → layer ──▶ rules.Policy ──▶ match → decide ──▶ model.Decision → explain
                                              └── wire (JSON for the gate), lint (what `check` prints)
"""

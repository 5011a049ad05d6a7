"""The shop's own tests are run behind outpass, by the shop's own interpreter, and not with the others.

Lives here: what is not collected. May not live here: fixtures.
"""

collect_ignore = ["app"]

"""`python -m outpass` is the command line.

Lives here: the call. May not live here: anything else.
"""

from outpass.cli.main import main

if __name__ == "__main__":
    main()

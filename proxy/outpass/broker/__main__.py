"""`python -m outpass.broker`: how `outpass run` starts a private daemon.

Lives here: this call. May not live here: anything else.
"""

import sys

from outpass.broker.serve import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

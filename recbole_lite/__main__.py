"""``python -m recbole_lite`` is ``recbole-lite``."""

import sys

from recbole_lite.cli import main

if __name__ == "__main__":
    sys.exit(main())

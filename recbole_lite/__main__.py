"""``python -m recbole_lite`` is ``recbole-lite``."""

import sys

from recbole_lite.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

"""``python run_recbole_lite.py --model=LiteLLM4Rec --dataset=ml-1m`` trains and evaluates."""

import sys

from recbole_lite.cli.main import run_main

if __name__ == "__main__":
    sys.exit(run_main())

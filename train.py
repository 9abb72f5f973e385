"""`python train.py …` is `seal train …`."""

from __future__ import annotations

import sys

try:
    from seal.cli import main
except ModuleNotFoundError as error:
    sys.exit(f"error: {error}. Run: pip install -r requirements.txt && pip install -e .")

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]], prog="train.py"))

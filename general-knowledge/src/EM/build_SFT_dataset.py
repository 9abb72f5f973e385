"""Build the SFT data of a ReST-EM round from a query run's result file (same as `seal build-sft`).

    python3 general-knowledge/src/EM/build_SFT_dataset.py RUN.json [--output_dir DIR] [--k_best K]

Writes sft_best<k>of<n>_<timestamp>.jsonl: the k completions of each article with the best mean accuracy,
one JSON line {"prompt", "completion"} each.
"""

from __future__ import annotations

import sys

try:
    from seal.cli import main
except ImportError as error:
    sys.exit(f"error: this Python cannot import seal ({error}). Run: pip install -e .")

if __name__ == "__main__":
    sys.exit(main(["build-sft", *sys.argv[1:]], prog="build_SFT_dataset.py"))

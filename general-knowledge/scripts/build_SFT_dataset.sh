#!/bin/bash
#SBATCH --job-name=seal-build-sft
#SBATCH --output=general-knowledge/logs/%x-%j.log
#SBATCH --open-mode=append
#SBATCH --time=1:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@60
# The best self-edits of a query run as SFT data (the same as src/EM/build_SFT_dataset.py).
#
#   sbatch general-knowledge/scripts/build_SFT_dataset.sh      or      bash general-knowledge/scripts/build_SFT_dataset.sh
#
# Settings: general-knowledge/config.env. GPUs: SEAL_GRES in general-knowledge/site.env.
set -euo pipefail
SEAL_ROOT=${SEAL_ROOT:-${SLURM_SUBMIT_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}}
SEAL_SCRIPT=general-knowledge/scripts/build_SFT_dataset.sh
# shellcheck source=common.sh
source "$SEAL_ROOT/general-knowledge/scripts/common.sh"

run "$SEAL_BIN" build-sft "$SEAL_OUT/query/run_$SEAL_NAME.json" --k_best "$SEAL_K_BEST"

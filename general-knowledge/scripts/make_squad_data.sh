#!/bin/bash
#SBATCH --job-name=seal-data
#SBATCH --output=general-knowledge/logs/%x-%j.log
#SBATCH --open-mode=append
#SBATCH --time=1-00:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
# Self-edits for a set of passages, written by the policy itself.
#
#   sbatch general-knowledge/scripts/make_squad_data.sh      or      bash general-knowledge/scripts/make_squad_data.sh
#
# Settings: general-knowledge/config.env. GPUs: SEAL_GRES in general-knowledge/site.env.
set -euo pipefail
SEAL_ROOT=${SEAL_ROOT:-${SLURM_SUBMIT_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}}
SEAL_SCRIPT=general-knowledge/scripts/make_squad_data.sh
# shellcheck source=common.sh
source "$SEAL_ROOT/general-knowledge/scripts/common.sh"

run "$SEAL_BIN" make-data "${asked[@]}" --model "$SEAL_MODEL" "${place[@]}"

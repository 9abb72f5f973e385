#!/bin/bash
#SBATCH --job-name=seal-continual
#SBATCH --output=general-knowledge/logs/%x-%j.log
#SBATCH --open-mode=append
#SBATCH --time=2-00:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
# Passages learned one after another, each merged before the next: what is forgotten, and what prevents it.
#
#   sbatch general-knowledge/scripts/continual_self_edits.sh      or      bash general-knowledge/scripts/continual_self_edits.sh
#
# Settings: general-knowledge/config.env. GPUs: SEAL_GRES in general-knowledge/site.env.
set -euo pipefail
SEAL_ROOT=${SEAL_ROOT:-${SLURM_SUBMIT_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}}
SEAL_SCRIPT=general-knowledge/scripts/continual_self_edits.sh
# shellcheck source=common.sh
source "$SEAL_ROOT/general-knowledge/scripts/common.sh"

run "$SEAL_BIN" continual "$SEAL_DATASET" --model "$SEAL_MODEL" "${place[@]}" "${judge[@]}" \
  --out "$SEAL_OUT/continual/continual_$SEAL_NAME.json" --prompt "$SEAL_PROMPT" \
  --edits "$SEAL_EDITS" --sequences "$SEAL_SEQUENCES" --methods "$SEAL_METHODS" "${split[@]}" \
  "${lora[@]}" "${steps[@]}" "${draws[@]}"

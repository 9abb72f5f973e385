#!/bin/bash
#SBATCH --job-name=seal-cpt
#SBATCH --output=general-knowledge/logs/%x-%j.log
#SBATCH --open-mode=append
#SBATCH --time=2-00:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
# The self-edits of many passages together: one adapter, or all weights with SEAL_CPT_FULL=1.
#
#   sbatch general-knowledge/scripts/CPT.sh      or      bash general-knowledge/scripts/CPT.sh
#
# Settings: general-knowledge/config.env. GPUs: SEAL_GRES in general-knowledge/site.env.
set -euo pipefail
SEAL_ROOT=${SEAL_ROOT:-${SLURM_SUBMIT_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}}
SEAL_SCRIPT=general-knowledge/scripts/CPT.sh
# shellcheck source=common.sh
source "$SEAL_ROOT/general-knowledge/scripts/common.sh"

out="$SEAL_OUT/cpt/cpt_$SEAL_NAME.json"
options=("${split[@]}" "${lora[@]}")
if [[ -n "$SEAL_CPT_EPOCHS" ]]; then options+=(--epochs "$SEAL_CPT_EPOCHS"); fi
if [[ -n "$SEAL_CPT_LR" ]]; then options+=(--lr "$SEAL_CPT_LR"); fi
if yes SEAL_CPT_FULL; then
  where=(--local "$SEAL_MODEL" "${place[@]}" "${judge[@]}" --full --save "${out%.json}_model")
fi
run "$SEAL_BIN" cpt --data "$SEAL_DATA" --out "$out" --n "$SEAL_N" --k "$SEAL_K" "${options[@]}" "${where[@]}"

#!/bin/bash
#SBATCH --job-name=seal-sft
#SBATCH --output=general-knowledge/logs/%x-%j.log
#SBATCH --open-mode=append
#SBATCH --time=1-00:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
# One ReST-EM update: LoRA SFT on the kept self-edits, merged into the next policy (SEAL_SFT_OUT).
#
#   sbatch general-knowledge/scripts/train_SFT.sh      or      bash general-knowledge/scripts/train_SFT.sh
#
# Settings: general-knowledge/config.env. GPUs: SEAL_GRES in general-knowledge/site.env.
set -euo pipefail
SEAL_ROOT=${SEAL_ROOT:-${SLURM_SUBMIT_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}}
SEAL_SCRIPT=general-knowledge/scripts/train_SFT.sh
# shellcheck source=common.sh
source "$SEAL_ROOT/general-knowledge/scripts/common.sh"

data=$SEAL_SFT_DATA
if [[ -z "$data" ]]; then
  newest() { ls -t "$@" 2>/dev/null | sed -n 1p; }
  data=$(newest "$SEAL_OUT"/query/sft_best*.jsonl || true)
fi
if [[ -z "$data" ]]; then
  echo "error: no sft_best*.jsonl in $SEAL_OUT/query: run general-knowledge/src/EM/build_SFT_dataset.py" >&2
  exit 2
fi
options=(--processes "$SEAL_SFT_PROCESSES")
if yes SEAL_SFT_ZERO3; then options+=(--zero3); fi
run "$SEAL_BIN" train-sft "$data" --model "$SEAL_MODEL" --output-dir "$SEAL_SFT_OUT" "${place[@]}" \
  --rank "$SEAL_SFT_RANK" --alpha "$SEAL_SFT_ALPHA" --learning-rate "$SEAL_SFT_LR" \
  --epochs "$SEAL_SFT_EPOCHS" --batch-size "$SEAL_SFT_BATCH" --seed "$((SEAL_SEED + 42))" "${options[@]}"

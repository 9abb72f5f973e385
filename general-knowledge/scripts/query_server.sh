#!/bin/bash
#SBATCH --job-name=seal-query
#SBATCH --output=general-knowledge/logs/%x-%j.log
#SBATCH --open-mode=append
#SBATCH --time=2-00:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
# What every self-edit is worth, one temporary adapter each (single passage).
#
#   sbatch general-knowledge/scripts/query_server.sh      or      bash general-knowledge/scripts/query_server.sh
#
# Settings: general-knowledge/config.env. GPUs: SEAL_GRES in general-knowledge/site.env.
set -euo pipefail
SEAL_ROOT=${SEAL_ROOT:-${SLURM_SUBMIT_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}}
SEAL_SCRIPT=general-knowledge/scripts/query_server.sh
# shellcheck source=common.sh
source "$SEAL_ROOT/general-knowledge/scripts/common.sh"

if yes SEAL_SHUTDOWN && ! yes SEAL_LOCAL; then where+=(--shutdown-server); fi
status=0
run "$SEAL_BIN" query --data "$SEAL_DATA" --out "$SEAL_OUT/query/run_$SEAL_NAME.json" \
  --n "$SEAL_N" --k "$SEAL_K" --eval-times "$SEAL_EVAL_TIMES" --exp-name "$SEAL_NAME" "${split[@]}" \
  "${lora[@]}" "${steps[@]}" "${where[@]}" || status=$?
# a query that failed for good leaves no server running for nobody
if ((status)) && yes SEAL_SHUTDOWN && [[ -n "${SEAL_SERVER_JOB:-}" ]]; then scancel "$SEAL_SERVER_JOB"; fi
exit "$status"

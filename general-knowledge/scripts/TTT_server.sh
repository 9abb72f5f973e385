#!/bin/bash
#SBATCH --job-name=seal-server
#SBATCH --output=general-knowledge/logs/%x-%j.log
#SBATCH --open-mode=append
#SBATCH --time=2-00:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
# The TTT server. It writes its address to SEAL_ENDPOINT, where query_server.sh and CPT.sh look for it.
#
#   sbatch general-knowledge/scripts/TTT_server.sh      or      bash general-knowledge/scripts/TTT_server.sh
#
# Settings: general-knowledge/config.env. GPUs: SEAL_GRES in general-knowledge/site.env.
set -euo pipefail
SEAL_ROOT=${SEAL_ROOT:-${SLURM_SUBMIT_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}}
SEAL_SCRIPT=general-knowledge/scripts/TTT_server.sh
# shellcheck source=common.sh
source "$SEAL_ROOT/general-knowledge/scripts/common.sh"

options=(--host "$SEAL_HOST" --port "$SEAL_PORT")
if [[ -n "$SEAL_SERVER_KEYS" ]]; then options+=(--keys "$SEAL_SERVER_KEYS" --allow "$SEAL_ALLOW"); fi
mkdir -p "$SEAL_OUT"
run "$SEAL_BIN" serve --model "$SEAL_MODEL" "${place[@]}" "${judge[@]}" "${options[@]}" \
  --seed "$SEAL_SEED" --endpoint-file "$SEAL_ENDPOINT" --store "$SEAL_OUT/replies.sqlite"

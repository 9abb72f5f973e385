#!/bin/bash
#SBATCH --job-name=seal-cluster
#SBATCH --output=general-knowledge/logs/%x-%j.log
#SBATCH --open-mode=append
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=2-00:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
# One run of `seal train` on all nodes of the job: Ray on every node, the run itself on the first.
#
#   sbatch general-knowledge/scripts/train_cluster.sh --config my.yaml
#
# All arguments go to `seal train`. Where SEAL_RUN names a run folder that exists, that run goes on instead.
# Ray's nodes talk to each other with a token that this job makes up; its file is readable by its owner alone.
# Ray ends everything of Ray's on a node when it ends: the job needs its nodes to itself (--exclusive).
# GPUs: SEAL_GRES in general-knowledge/site.env.
set -euo pipefail
SEAL_ROOT=${SEAL_ROOT:-${SLURM_SUBMIT_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}}
SEAL_SCRIPT=general-knowledge/scripts/train_cluster.sh
# shellcheck source=common.sh
source "$SEAL_ROOT/general-knowledge/scripts/common.sh"

if [[ -z "${SLURM_JOB_ID:-}" ]]; then
  echo "error: submit it with sbatch; without SLURM: seal train --set inner.backend=ray" >&2
  exit 2
fi
mkdir -p "$SEAL_OUT"
RAY_AUTH_TOKEN_PATH=$(realpath "$SEAL_OUT")/.ray-token-$SLURM_JOB_ID
(umask 077 && head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$RAY_AUTH_TOKEN_PATH")
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
port=${SEAL_RAY_PORT:-6379}
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH RAY_ADDRESS=$head:$port RAY_USAGE_STATS_ENABLED=0

SEAL_RUN=${SEAL_RUN:-$SEAL_OUT/runs/$SLURM_JOB_ID}
if [[ -f "$SEAL_RUN/config.yaml" ]]; then
  work=("$SEAL_BIN" resume "$SEAL_RUN")
else
  work=("$SEAL_BIN" train "$@" --set inner.backend=ray --output-dir "$SEAL_RUN")
fi
ray=$(dirname "$(command -v "$SEAL_BIN")")/ray
run srun --kill-on-bad-exit=1 "$ray" symmetric-run --address "$head:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --disable-usage-stats -- "${work[@]}"

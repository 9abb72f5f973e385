#!/bin/bash
#SBATCH --job-name=seal-data-openai
#SBATCH --output=general-knowledge/logs/%x-%j.log
#SBATCH --open-mode=append
#SBATCH --time=1-00:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
# Self-edits for a set of passages, from an OpenAI-compatible server.
#
#   sbatch general-knowledge/scripts/make_squad_data_openai.sh      or      bash general-knowledge/scripts/make_squad_data_openai.sh
#
# Settings: general-knowledge/config.env. GPUs: SEAL_GRES in general-knowledge/site.env.
set -euo pipefail
SEAL_ROOT=${SEAL_ROOT:-${SLURM_SUBMIT_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}}
SEAL_SCRIPT=general-knowledge/scripts/make_squad_data_openai.sh
# shellcheck source=common.sh
source "$SEAL_ROOT/general-knowledge/scripts/common.sh"

run "$SEAL_BIN" make-data "${asked[@]}" \
  --base-url "$SEAL_BASE_URL" --server-model "$SEAL_SERVER_MODEL" --api "$SEAL_API" \
  --api-key-env "$SEAL_API_KEY_ENV"

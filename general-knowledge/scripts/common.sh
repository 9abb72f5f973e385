# Sourced by the scripts beside it: settings, the `seal` command, and how a job is interrupted and goes on.

# shellcheck shell=bash
if [[ ! -f "$SEAL_ROOT/general-knowledge/config.env" ]]; then
  echo "error: $SEAL_ROOT is not the repository root: submit from there, or set SEAL_ROOT" >&2
  exit 2
fi
cd "$SEAL_ROOT"
set -a
for file in "${SEAL_CONFIG:-}" general-knowledge/site.env general-knowledge/config.env; do
  if [[ -n "$file" && -f "$file" ]]; then
    # shellcheck disable=SC1090
    source "$file"
  elif [[ -n "$file" && "$file" == "${SEAL_CONFIG:-}" ]]; then
    echo "error: SEAL_CONFIG names $file, which is not there" >&2
    exit 2
  fi
done
set +a

# The site's GPUs: sbatch has read its options already, so a job without them is submitted again with them.
if [[ -n "${SEAL_GRES:-}" && -n "${SLURM_JOB_ID:-}" && -z "${SLURM_JOB_GPUS:-}${CUDA_VISIBLE_DEVICES:-}" &&
  -z "${SEAL_GRES_ASKED:-}" ]]; then
  again=$(SEAL_GRES_ASKED=1 sbatch --parsable --gres="$SEAL_GRES" "$SEAL_SCRIPT" "$@")
  echo "submitted again as job $again with --gres=$SEAL_GRES"
  exit 0
fi

if [[ -z "${SEAL_BIN:-}" ]]; then
  if [[ -x .venv/bin/seal ]]; then SEAL_BIN=.venv/bin/seal; else SEAL_BIN=seal; fi
fi

# run COMMAND…: SLURM's USR1 (time is nearly up) ends the command, which keeps what it has, and requeues
# the job; the same command then goes on. TERM (scancel, preemption) ends it.
run() {
  local status=0 requeue=0
  "$@" &
  local child=$!
  trap 'requeue=1; kill -TERM "$child" 2>/dev/null || true' USR1
  trap 'kill -TERM "$child" 2>/dev/null || true' TERM INT
  while :; do
    status=0
    wait "$child" || status=$?
    kill -0 "$child" 2>/dev/null || break
  done
  trap - USR1 TERM INT
  if ((requeue)) && [[ -n "${SLURM_JOB_ID:-}" ]]; then
    echo "requeued: the job goes on where it stopped"
    scontrol requeue "$SLURM_JOB_ID"
    sleep 60 # SLURM ends this try
    exit 0
  fi
  return "$status"
}

# yes NAME: whether a switch is on
yes() { [[ "${!1}" == 1 || "${!1}" == true || "${!1}" == yes ]]; }

# options that several scripts share
draws=(--temperature "$SEAL_TEMPERATURE" --top-p "$SEAL_TOP_P" --max-tokens "$SEAL_MAX_TOKENS")
asked=("$SEAL_DATASET" --out "$SEAL_DATA" --prompt "$SEAL_PROMPT" --start "$SEAL_START" --n "$SEAL_N"
  --k "$SEAL_K" --seed "$SEAL_SEED" "${draws[@]}")
lora=(--lora-rank "$SEAL_LORA_RANK" --lora-alpha "$SEAL_LORA_ALPHA" --seed "$SEAL_SEED")
steps=(--epochs "$SEAL_EPOCHS" --lr "$SEAL_LR" --batch-size "$SEAL_BATCH_SIZE" --grad-accum "$SEAL_GRAD_ACCUM")
place=(--device "$SEAL_DEVICE" --dtype "$SEAL_DTYPE")
judge=(--grader "$SEAL_GRADER" --judge-url "$SEAL_JUDGE_URL" --judge-model "$SEAL_JUDGE_MODEL"
  --judge-key-env "$SEAL_JUDGE_KEY_ENV")
if yes SEAL_SPLIT_NEWLINES; then split=(--split-newlines); else split=(--no-split-newlines); fi
if yes SEAL_LOCAL; then
  where=(--local "$SEAL_MODEL" "${place[@]}" "${judge[@]}")
else
  where=(--server "$SEAL_ENDPOINT" --wait "$SEAL_WAIT")
  if [[ -n "$SEAL_CLIENT_KEYS" ]]; then where+=(--keys "$SEAL_CLIENT_KEYS"); fi
fi

#!/bin/bash
# gpu-study (kind experiment) on Slurm, written by `sftfilter manifest`.
# Once:  python3 -m venv VENV && VENV/bin/pip install ... && VENV/bin/python -m cluster.prepare  (on a shared file system)
#        (umask 077; openssl rand -hex 32 > ~/.ray/auth_token)
# Then:  SPEC=my-spec.yaml VENV=/path/to/venv sbatch THIS_FILE
# The spec's `results` must lie on a file system that all nodes mount. scancel and the time limit keep what is done; the
# same sbatch goes on from there. Nodes are exclusive, since the run ends with `ray stop`, which ends every Ray on them.
# Expected on every node: /shared/models/base, /shared/models/clean-teacher
#SBATCH --job-name=gpu-study
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --cpus-per-task=64
#SBATCH --mem=512G
#SBATCH --gpus-per-node=h100:8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=gpu-study-%j.log
set -euo pipefail

: "${SPEC:?set SPEC to the spec file}"
: "${VENV:?set VENV to the virtual environment}"
export SPEC PATH="$VENV/bin:$PATH"

# Ray's files stay on the node, under a short path (Unix sockets allow 107 bytes); the port is this job's own.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}"
export RAY_TMPDIR="/tmp/r-$SLURM_JOB_ID" HF_HOME="${HF_HOME:-/shared/huggingface}"
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=600  # importing Ray from a busy file system takes more than Ray's 30 s
if [[ "$(stat -c %a "$RAY_AUTH_TOKEN_PATH")" != 600 ]]; then
  echo "error: others can read $RAY_AUTH_TOKEN_PATH: chmod 600 it" >&2
  exit 4
fi
port=$((20000 + SLURM_JOB_ID % 20000))
head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n1)
head_ip=$(srun --nodes=1 --ntasks=1 --nodelist="$head_node" hostname -I | awk '{print $1}')
export RAY_AT="$head_ip:$port"

# The task of every node. On SIGTERM (scancel, or 120 s before the time limit) the driver ends as at Ctrl-C; Ray stays until
# it has ended.
on_node() {
  set -m  # what runs in the background has a process group of its own
  driver="$RAY_TMPDIR/driver.pid"
  mkdir -p "$RAY_TMPDIR"
  rm -f "$driver"  # a requeued job has the number that it had
  trap '[[ ! -e "$driver" ]] || kill -TERM "$(<"$driver")"' TERM
  # shellcheck disable=SC2016  # the inner shell expands it
  ray symmetric-run --address "$RAY_AT" --min-nodes "$SLURM_JOB_NUM_NODES" --disable-usage-stats -- \
    bash -c 'echo $$ > "$0" && exec python -m jobs.run "$SPEC"' "$driver" &
  await $! || return
  if [[ "$SLURM_NODEID" == 0 && ! -e "$driver" ]]; then
    echo "error: Ray did not start on $(hostname); see above" >&2
    return 1
  fi
}

# A trapped signal ends `wait` early, whatever it waits for.
await() {
  local code
  while true; do
    code=0
    wait "$1" || code=$?
    if ((code <= 128)) || ! kill -0 "$1" 2>/dev/null; then return "$code"; fi
  done
}

trap : TERM  # this shell stays until the step has ended
srun --kill-on-bad-exit=1 bash -c "$(declare -f on_node await); on_node" &
await $!

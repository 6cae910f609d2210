#!/bin/bash
# gpu-study (kind experiment) on Slurm, written by `sftfilter manifest`.
# Once:  python3 -m venv VENV && VENV/bin/pip install ... && VENV/bin/python -m cluster.prepare  (on a shared file system)
#        (umask 077; openssl rand -hex 32 > ~/.ray/auth_token)
# Then:  SPEC=my-spec.yaml VENV=/path/to/venv sbatch THIS_FILE
# The spec's `results` must lie on a file system that all nodes mount. Ctrl-C, scancel and the time limit keep what is done;
# the same sbatch goes on from there.
# Expected on every node: /shared/models/base, /shared/models/clean-teacher
#SBATCH --job-name=gpu-study
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=64
#SBATCH --mem=512G
#SBATCH --gpus-per-node=h100:8
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=gpu-study-%j.log
set -euo pipefail

: "${SPEC:?set SPEC to the spec file}"
: "${VENV:?set VENV to the virtual environment}"

# Ray's files stay on the node, under a short path (Unix sockets allow 107 bytes); the port is this job's own.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}"
export RAY_TMPDIR="/tmp/r-$SLURM_JOB_ID" HF_HOME="${HF_HOME:-/shared/huggingface}"
if [[ "$(stat -c %a "$RAY_AUTH_TOKEN_PATH")" != 600 ]]; then
  echo "error: others can read $RAY_AUTH_TOKEN_PATH: chmod 600 it" >&2
  exit 4
fi
port=$((20000 + SLURM_JOB_ID % 20000))
head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n1)
head_ip=$(srun --nodes=1 --ntasks=1 --nodelist="$head_node" hostname -I | awk '{print $1}')

srun --kill-on-bad-exit=1 "$VENV/bin/ray" symmetric-run --address "$head_ip:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --disable-usage-stats -- "$VENV/bin/python" -m jobs.run "$SPEC" &
step=$!
trap 'kill -TERM "$step"' TERM
wait "$step"

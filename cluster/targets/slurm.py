"""Slurm: one allocation, `ray symmetric-run` on its nodes, a requeue that goes on with the last finished stage."""

from __future__ import annotations

from cluster.workload import Workload

_HOURS = 24


def script(work: Workload) -> str:
    """A batch script for sbatch."""
    machines = work.machines
    nodes = work.gpu_nodes or work.cpu_nodes
    gpus = f"#SBATCH --gpus-per-node={machines.gpu_type.lower()}:{machines.gpus}\n" if work.gpus else ""
    expected = f"# Expected on every node: {', '.join(work.expected)}\n" if work.expected else ""
    return _SCRIPT.format(
        name=work.name,
        kind=work.kind,
        nodes=nodes,
        cpus=machines.cpus,
        memory=machines.memory_gib,
        hours=_HOURS,
        gpus=gpus,
        expected=expected,
        shared=machines.shared,
    )


# The first address of `hostname -I` is the one that Slurm's network uses on most sites. symmetric-run takes the node
# whose address it is given for the head, and ends Ray on every node when the command ends.
_SCRIPT = """\
#!/bin/bash
# {name} (kind {kind}) on Slurm, written by `sftfilter manifest`.
# Once:  python3 -m venv VENV && VENV/bin/pip install ... && VENV/bin/python -m cluster.prepare  (on a shared file system)
#        (umask 077; openssl rand -hex 32 > ~/.ray/auth_token)
# Then:  SPEC=my-spec.yaml VENV=/path/to/venv sbatch THIS_FILE
# The spec's `results` must lie on a file system that all nodes mount. Ctrl-C, scancel and the time limit keep what is done;
# the same sbatch goes on from there.
{expected}#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task={cpus}
#SBATCH --mem={memory}G
{gpus}#SBATCH --time={hours}:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={name}-%j.log
set -euo pipefail

: "${{SPEC:?set SPEC to the spec file}}"
: "${{VENV:?set VENV to the virtual environment}}"

# Ray's files stay on the node, under a short path (Unix sockets allow 107 bytes); the port is this job's own.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="${{RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}}"
export RAY_TMPDIR="/tmp/r-$SLURM_JOB_ID" HF_HOME="${{HF_HOME:-{shared}/huggingface}}"
if [[ "$(stat -c %a "$RAY_AUTH_TOKEN_PATH")" != 600 ]]; then
  echo "error: others can read $RAY_AUTH_TOKEN_PATH: chmod 600 it" >&2
  exit 4
fi
port=$((20000 + SLURM_JOB_ID % 20000))
head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n1)
head_ip=$(srun --nodes=1 --ntasks=1 --nodelist="$head_node" hostname -I | awk '{{print $1}}')

srun --kill-on-bad-exit=1 "$VENV/bin/ray" symmetric-run --address "$head_ip:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \\
  --disable-usage-stats -- "$VENV/bin/python" -m jobs.run "$SPEC" &
step=$!
trap 'kill -TERM "$step"' TERM
wait "$step"
"""

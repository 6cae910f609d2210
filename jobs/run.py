"""Run a spec on the Ray cluster at hand: what `ray job submit -- python -m jobs.run SPEC` calls, and `sftfilter run`."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.actions import Action
from jobs.kinds.job import JobSpec
from jobs.resumed import check_is_the_same
from jobs.run_lock import hold_run
from jobs.run_record import RunRecord
from jobs.spec import load_spec
from sftfilter.allocator import allocator_env
from sftfilter.disk import disk_errors
from sftfilter.errors import MachineError, SftfilterError
from sftfilter.extension_lock import clear_stale_locks, extensions_dir
from sftfilter.private import redact, remember_named

if TYPE_CHECKING:
    from jobs.run_metrics import RunMetrics

INTERRUPTED = 130
_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"


def worker_env() -> dict[str, str]:
    """Environment of every worker: quiet libraries, few page faults, and DeepSpeed's compiled parts kept."""
    return {
        "TORCH_EXTENSIONS_DIR": str(extensions_dir()),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "DEEPSPEED_LOG_LEVEL": "error",
        **allocator_env(),
        # Serve ends its own proxy when it is not ready in 5 s; a busy machine may need more.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
        **{k: os.environ[k] for k in ("SFTFILTER_CACHE", "HF_HUB_OFFLINE", "HF_HOME") if k in os.environ},
    }


def run_spec(spec: JobSpec, command: str, action: Action | None = None) -> Mapping[str, Any]:
    """Run on the connected cluster, the spec's own kind unless another action is given; answers what it wrote as JSON.

    Raises:
        MachineError: another run of this name is at work in the same results folder.
        SpecError: a run is gone on with, and this is not its spec.
    """
    remember_named(spec.model_dump(mode="json"))
    with _alone(spec, redact(command)):
        return _run(spec, redact(command), action)


@contextmanager
def _alone(spec: JobSpec, command: str) -> Iterator[None]:
    """Keep other runs out of the run's folder, where the kind writes results; and other work out of a resumed run."""
    check_is_the_same(spec)
    with hold_run(results_root(spec) / spec.name, command) if spec.writes_results else nullcontext():
        yield


def _run(spec: JobSpec, command: str, action: Action | None) -> Mapping[str, Any]:
    from jobs.console import Stages
    from jobs.run_cost import watch_cost
    from sftfilter.memory import watch_memory
    from sftfilter.run_log import logged_run

    warnings.filterwarnings("ignore", category=FutureWarning)
    if spec.needs_ray:
        _quiet_libraries()
    root = results_root(spec)
    metrics = _metrics(spec)
    record = RunRecord(root / spec.name, mirror=_session_logs(), metrics=metrics)
    about = {"kind": spec.model_dump()["kind"], "name": spec.name, "command": command, "spec_hash": spec.spec_hash}
    with (
        watch_memory() as memory,
        logged_run(record.folder, record.run, spec.name),
        metrics.kept() if metrics else nullcontext(),
        record.whole_run(**about, submission=submission_id()),
        watch_cost(record.write, spec.worker_hour_price) if spec.needs_ray else nullcontext(),
        disk_errors(root),
    ):
        stages = Stages(memory=memory, record=record)
        for line in clear_stale_locks(extensions_dir()):
            stages.say(line)
        results = (action or spec.run)(root, stages, command)
    stages.console.print(f"{stages.total():.0f} s in all, peak {memory.peak_gib:.2f} GiB")
    return results


def _metrics(spec: JobSpec) -> RunMetrics | None:
    if not spec.needs_ray:
        return None
    from jobs.run_metrics import RunMetrics

    return RunMetrics(spec.name)


def results_root(spec: JobSpec) -> Path:
    """Where results go. Inside a Ray job the working folder is a throw-away copy, so relative paths are below home."""
    path = Path(spec.results).expanduser()
    if path.is_absolute():
        return path
    return (Path.home() / "sftfilter" if _JOB in os.environ else Path.cwd()) / path


def submission_id() -> str | None:
    """The Ray job that this process is the driver of, if it is one."""
    return json.loads(os.environ.get(_JOB, "{}")).get("metadata", {}).get("job_submission_id")


def _session_logs() -> tuple[Path, str] | None:
    """Where a Ray job's record is mirrored: the log folder of its node, which Ray's log service serves."""
    job = submission_id()
    if job is None:
        return None
    import ray

    if not ray.is_initialized():
        return None
    return Path(ray._private.worker.global_worker.node.get_logs_dir_path()), mirror_name(job)  # pyright: ignore


def mirror_name(submission: str) -> str:
    """Start of the names of a job's mirrored record."""
    return f"sftfilter-{submission}"


def run_local(spec: JobSpec, command: str, action: Action | None = None) -> Mapping[str, Any]:
    """Start a Ray of our own on this machine, run, and end it."""
    from cluster.local import local_ray

    if not spec.needs_ray:
        return run_spec(spec, command, action)
    remember_named(spec.model_dump(mode="json"))
    with _alone(spec, redact(command)), local_ray(worker_env()):
        import ray

        sigterm_as_ctrl_c()  # ray.init has put its own handler in our place
        spec.check_fits(ray.cluster_resources())
        return _run(spec, redact(command), action)


def _quiet_libraries() -> None:
    import logging

    import ray.data
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray", "ray.data", "ray.train", "ray.serve", "httpx"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def readable_errors() -> Iterator[None]:
    """Print our own errors without a traceback and leave with their exit code; SIGTERM ends as Ctrl-C does.

    Others keep their traceback, without the values of secrets, and leave with 1.
    """

    sigterm_as_ctrl_c()
    try:
        yield
    except SftfilterError as error:
        print(f"error: {redact(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted: finished stages are kept, the same command goes on from there", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception:
        print(redact(traceback.format_exc()), file=sys.stderr, end="")
        sys.exit(1)


def sigterm_as_ctrl_c() -> None:
    """End this process as Ctrl-C does; to be said again after `ray.init`, which puts its own handler in our place."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def main(arguments: Sequence[str]) -> None:
    """`python -m jobs.run SPEC [--set a.b=value ...]` on a cluster that runs already."""
    from jobs.foresight import refuse_unusable
    from jobs.plan.brief import brief

    parser = argparse.ArgumentParser(
        prog="python -m jobs.run",
        description="Run a spec on the Ray cluster at hand. On this machine alone: sftfilter run SPEC",
        allow_abbrev=False,
    )
    parser.add_argument("spec", metavar="SPEC", help="a YAML file")
    parser.add_argument("--set", metavar="A.B=VALUE", action="append", default=[], help="change a field (repeatable)")
    given = parser.parse_args(arguments)
    with readable_errors():
        spec = load_spec(given.spec, given.set)
        refuse_unusable(given.spec, spec)
        for line in brief(spec, results_root(spec)):
            print(line, flush=True)
        if spec.needs_ray:
            _connect()
        run_spec(spec, f"python -m jobs.run {shlex.join(arguments)}")


def _connect() -> None:
    import ray

    from cluster.autoscaling import state_limits_of_environment

    try:
        ray.init(address="auto", runtime_env={"env_vars": worker_env()}, log_to_driver=False)
    except ConnectionError as error:
        raise MachineError("no Ray cluster to connect to; on this machine alone use `sftfilter run SPEC`") from error
    sigterm_as_ctrl_c()  # ray.init has put its own handler in our place
    state_limits_of_environment(ray.get_runtime_context().gcs_address)


if __name__ == "__main__":
    main(sys.argv[1:])

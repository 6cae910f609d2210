"""Whose the applications on a cluster's Serve are, so that no job takes another's away.

A job that hosts one says so in Ray's own store, under the application's name and its own id, and looks who else did.
Writing comes before looking, so two jobs cannot both miss each other. The claims of jobs that have ended, however they
ended, count for nothing: what they left running belongs to nobody.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator

import ray
from ray._private import state
from ray.experimental import internal_kv

from sftfilter.errors import MachineError

_NAMESPACE = "sftfilter-endpoints"
_BETWEEN = ":"


def private_name(name: str) -> str:
    """A name for an application that only this process asks: no other job has it, though it be of a run of that name."""
    return f"{name}-{secrets.token_hex(4)}"


@contextlib.contextmanager
def claimed(name: str) -> Iterator[bool]:
    """Have an application's name until the block ends. Whether this job or one that has ended had it, and left it.

    Raises:
        MachineError: another job that still runs has it.
    """
    job = ray.get_runtime_context().get_job_id()
    left = bool(_claimants(name))
    internal_kv._internal_kv_put(_key(name, job), b"", namespace=_NAMESPACE)
    try:
        if others := (_claimants(name) - {job}) & _running():
            raise MachineError(
                f"Ray job {min(others)} of this cluster hosts an endpoint '{name}' already: ask that one, or end the job "
                "before this one takes its place"
            )
        yield left
        for ended in _claimants(name) - {job}:
            _withdraw(name, ended)
    finally:
        if ray.is_initialized():
            _withdraw(name, job)


def abandoned() -> list[str]:
    """Names that only jobs have that have ended."""
    running = _running()
    owners: dict[str, set[str]] = {}
    for name, job in _claims():
        owners.setdefault(name, set()).add(job)
    return [name for name, jobs in owners.items() if not jobs & running]


def _claims() -> list[tuple[str, str]]:
    found = internal_kv._internal_kv_list("", namespace=_NAMESPACE)
    pairs = (key.decode().rpartition(_BETWEEN) for key in found)
    return [(name, job) for name, _, job in pairs]


def _claimants(name: str) -> set[str]:
    return {job for other, job in _claims() if other == name}


def _withdraw(name: str, job: str) -> None:
    internal_kv._internal_kv_del(_key(name, job), namespace=_NAMESPACE)


def _key(name: str, job: str) -> str:
    return f"{name}{_BETWEEN}{job}"


def _running() -> set[str]:
    """Ids of the cluster's jobs that have not ended."""
    return {job["JobID"] for job in state.state.job_table() if not job["IsDead"]}

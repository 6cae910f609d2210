"""Going on with a run that is recorded here: only with the work that it had begun."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from sftfilter.errors import SpecError

if TYPE_CHECKING:
    from jobs.kinds.job import JobSpec
    from jobs.status import RunStatus

_BEGUN: ContextVar[RunStatus | None] = ContextVar("the run that is gone on with", default=None)


@contextmanager
def going_on_with(run: RunStatus) -> Iterator[None]:
    """Within the block another spec than this run's is refused, whichever command reads it."""
    token = _BEGUN.set(run)
    try:
        yield
    finally:
        _BEGUN.reset(token)


def check_is_the_same(spec: JobSpec) -> None:
    """Compare a spec with the one that is gone on with, if any is; records of before specs were hashed pass.

    Raises:
        SpecError: it, or a file that it names, has changed since.
    """
    run = _BEGUN.get()
    if run is None or run.spec_hash is None or (spec.name, spec.spec_hash) == (run.name, run.spec_hash):
        return
    raise SpecError(
        f"the spec of `{run.command}` or a file that it names is not what {run.name} ran: that command itself starts the "
        "changed work, and reuses every stage that is the same"
    )

"""The one error tree. A message says what is wrong, where (file, row, field) and what to do next."""

from __future__ import annotations

from collections.abc import Mapping


class SftfilterError(Exception):
    """Base of everything raised on purpose; the command line prints it without a traceback."""

    exit_code = 1


class SpecError(SftfilterError):
    """The spec cannot be used as written."""

    exit_code = 2


class DataError(SftfilterError):
    """Prompts, rollouts or answers are malformed, missing or contradict each other."""

    exit_code = 3


class MachineError(SftfilterError):
    """The machine or the cluster lacks something: a port, disk space, CPUs, GPUs, a compiler."""

    exit_code = 4


class TrainingError(SftfilterError):
    """A training run failed, diverged or wrote a checkpoint that cannot be used."""

    exit_code = 5


class DivergedError(TrainingError):
    """Students whose training diverged, as it would each time; the others that were to be trained are there.

    Attributes:
        arms: name of a student -> why.
    """

    def __init__(self, message: str, arms: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.arms = dict(arms or {})


class EvalError(SftfilterError):
    """The endpoint did not answer as the evaluation needs."""

    exit_code = 6


class BrokenModelError(EvalError):
    """One model can answer nothing, whoever asks it; others at the same endpoint can."""

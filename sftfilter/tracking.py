"""Where a training's curves go: TensorBoard's event files by default, MLflow and Weights & Biases where they are asked for.

Only the first worker tracks. A tracker that fails says so once and is left out: training is worth more than its curves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from sftfilter.training_settings import Tracking


class Tracker(Protocol):
    """One place that curves go to."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Values of one optimizer step, counted from 1."""

    def close(self) -> None:
        """Nothing more comes."""


_ROOM = 100_000
"""Values."""


class TensorBoard:
    """Event files below `folder / arm`.

    Args:
        done: steps of the arm that are done; what earlier files tell of later ones is hidden, for they are done again.
    """

    def __init__(self, folder: Path, arm: str, done: int) -> None:
        from tensorboardX import SummaryWriter

        # Room for all that comes before its thread is seen to be dead: whoever adds to a full queue waits for that thread.
        self.writer = SummaryWriter(str(folder / arm), flush_secs=10, max_queue=_ROOM, purge_step=done + 1)
        events: Any = getattr(self.writer.file_writer, "event_writer", None)
        if events is not None:  # closing waits until all is written; a process that ends without it waits for nothing
            events._event_queue.cancel_join_thread()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See Tracker."""
        for name, value in values.items():
            self._check()
            self.writer.add_scalar(f"train/{name}", value, step)

    def close(self) -> None:
        """See Tracker."""
        self._check()
        self.writer.close()

    def _check(self) -> None:
        """A thread that has ended writes nothing any more."""
        events: Any = getattr(self.writer.file_writer, "event_writer", None)
        if events is not None and events._worker is not None and not events._worker.is_alive():
            events._closed = True
            raise OSError("its writing thread has ended: is the disk full, or failing?")


class MLflow:
    """A run in an experiment of an MLflow server, by Ray's own set-up (which logs from the first worker only)."""

    def __init__(self, uri: str | None, experiment: str, arm: str, facts: Mapping[str, Any]) -> None:
        from ray.air.integrations.mlflow import setup_mlflow

        self.mlflow: Any = setup_mlflow(
            dict(facts),
            tracking_uri=uri,
            experiment_name=experiment,
            run_name=arm,
            create_experiment_if_not_exists=True,
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See Tracker."""
        self.mlflow.log_metrics(dict(values), step=step)

    def close(self) -> None:
        """See Tracker."""
        self.mlflow.end_run()


class WandB:
    """A run in a project of Weights & Biases, by Ray's own set-up; the key comes from WANDB_API_KEY."""

    def __init__(self, project: str, group: str, arm: str, facts: Mapping[str, Any]) -> None:
        from ray.air.integrations.wandb import setup_wandb

        self.run: Any = setup_wandb(
            dict(facts), project=project, name=arm, id=facts["key"], group=group, resume="allow"
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See Tracker."""
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        """See Tracker."""
        self.run.finish()


class Trackers:
    """All that the settings ask for.

    Args:
        done: see `TensorBoard`.
    """

    def __init__(
        self, wanted: Tracking, folder: Path, arm: str, facts: Mapping[str, Any], say: Callable[[str], None], done: int
    ) -> None:
        self.say = say
        self.open: dict[str, Tracker] = {}
        made: dict[str, Callable[[], Tracker]] = {}
        if wanted.tensorboard:
            made["tensorboard"] = lambda: TensorBoard(folder, arm, done)
        if wanted.mlflow:
            uri = wanted.mlflow_uri
            made["mlflow"] = lambda: MLflow(uri, str(wanted.mlflow), arm, facts)
        if wanted.wandb:
            made["wandb"] = lambda: WandB(str(wanted.wandb), folder.parent.name, arm, facts)
        for name, make in made.items():
            self._try(name, lambda name=name, make=make: self.open.__setitem__(name, make()))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See Tracker."""
        for name, tracker in list(self.open.items()):
            self._try(name, lambda tracker=tracker: tracker.log(step, values))

    def close(self) -> None:
        """See Tracker."""
        for name, tracker in list(self.open.items()):
            self._try(name, tracker.close)

    def _try(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # each client raises its own
            self.open.pop(name, None)
            self.say(f"tracking with {name} is off: {error}")

"""Where training runs and where its checkpoints lie: checked by the driver before workers are asked for."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sftfilter.disk import disk_errors
from sftfilter.errors import MachineError
from sftfilter.growth import grows
from sftfilter.reading.places import complete, filesystem
from sftfilter.training_settings import Execution

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

_MANY = 2**31
_START_TIMEOUT, _START_S = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", 60
"""What Ray Train reads, and its default."""
_ID = "checkpoints.id"
_SNAPSHOT = "checkpoint_manager_snapshot.json"
_FRESH_S = 300.0
"""For so long what a killed run wrote is not taken for left behind."""


def worker_resources(execution: Execution) -> dict[str, float]:
    """What one worker reserves."""
    return {"CPU": execution.cpus_per_worker} | ({"GPU": 1.0} if execution.use_gpu else {})


def check_can_ever_run(execution: Execution) -> None:
    """Refuse workers that the connected cluster can never have; Ray would wait for them without end.

    A cluster that grows without saying how far is believed, and Ray Train gives up after `execution.start_timeout_s`.

    Raises:
        MachineError: no node, present or one that an autoscaler may add, holds a worker; or there are too few.
    """
    wanted = worker_resources(execution)
    nodes, groups = _present(), _groups()
    if max(_workers_on(nodes, wanted), _workers_in(groups, wanted)) >= execution.fewest_workers:
        return
    if not groups and grows():
        return
    shapes, who = [*nodes, *(shape for shape, _ in groups)], "can grow to" if groups else "has"
    for name, amount in wanted.items():
        most = max((node.get(name, 0) for node in shapes), default=0)
        if amount > most:
            largest = f"the largest node of this cluster {'can have' if groups else 'has'} {most:g}"
            raise MachineError(
                f"a training worker needs {amount:g} {name} and {largest}: "
                + ("lower execution.cpus_per_worker" if name == "CPU" else "set execution.use_gpu: false")
                + ", or add a larger node"
            )
    have = {name: _total(nodes, groups, name) for name in wanted}
    scarce = min(wanted, key=lambda name: have[name] / wanted[name])
    raise MachineError(_too_much(execution, scarce, have[scarce], f"this cluster {who}"))


def starts_tried(execution: Execution) -> int:
    """How often Ray Train tries to start the workers again before it gives up; it waits a while for them each time."""
    wait = float(os.environ.get(_START_TIMEOUT, _START_S))
    return math.ceil(execution.start_timeout_s / wait)


def groups_at_once(execution: Execution, wanted: int | None = None) -> int:
    """How many whole groups of workers the connected cluster can hold side by side, now or once it has grown.

    More at a time would wait for workers that others hold. Elastic groups count with the most workers that they use.

    Args:
        wanted: not more than these; on a cluster that grows without saying how far, this is believed.

    Raises:
        MachineError: not a single one.
    """
    check_can_ever_run(execution)
    needed, groups = worker_resources(execution), _groups()
    if not groups and wanted is not None and grows():
        return wanted
    workers = _workers_in(groups, needed) if groups else _workers_on(_present(), needed)
    room = max(1, workers // execution.most_workers)
    return room if wanted is None else min(room, wanted)


def _present() -> list[Mapping[str, float]]:
    """Resources of each node that is there."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _groups() -> list[tuple[Mapping[str, float], float]]:
    """Kinds of nodes that an autoscaler may add, and how many of each; empty where it does not say."""
    from ray._private.state import state  # what Ray Train asks itself; there is no public way

    config = state.get_cluster_config()
    found = []
    for group in config.node_group_configs if config else ():
        shape = {name: math.inf if amount == -1 else amount for name, amount in group.resources.items()}
        if shape and group.max_count:
            found.append((shape, math.inf if group.max_count == -1 else group.max_count))
    return found


def _workers_in(groups: Sequence[tuple[Mapping[str, float], float]], wanted: Mapping[str, float]) -> int:
    """How many workers the nodes of these kinds hold once all are there."""
    held = sum(count * _on_one(shape, wanted) for shape, count in groups if _on_one(shape, wanted))
    return int(min(held, _MANY))


def _total(
    nodes: Sequence[Mapping[str, float]], groups: Sequence[tuple[Mapping[str, float], float]], name: str
) -> float:
    """The most of a resource that there is or may be."""
    grown = sum(count * shape[name] for shape, count in groups if shape.get(name))
    return max(sum(node.get(name, 0) for node in nodes), grown)


def _workers_on(nodes: Sequence[Mapping[str, float]], wanted: Mapping[str, float]) -> int:
    """How many workers the nodes hold; none is spread over two."""
    return int(sum(_on_one(node, wanted) for node in nodes))


def _on_one(node: Mapping[str, float], wanted: Mapping[str, float]) -> float:
    return min(_whole(node.get(name, 0) / amount) for name, amount in wanted.items())


def _whole(workers: float) -> float:
    return workers if math.isinf(workers) else int(workers + 1e-9)


def _too_much(execution: Execution, name: str, have: float, who: str) -> str:
    workers = execution.fewest_workers
    need = workers * worker_resources(execution)[name]
    return (
        f"execution.workers: {workers} workers need {need:g} {name}, {who} {have:g}: lower execution.workers"
        + (" or execution.cpus_per_worker" if name == "CPU" else "")
        + ", or run on a larger cluster"
    )


def own_id(folder: Path) -> str:
    """A random name that a folder keeps: the same however often it is asked for, another one on every other disk."""
    file = folder / _ID
    with disk_errors(folder):
        known = file.read_text().strip() if file.exists() else ""
        if not known:
            known = secrets.token_hex(8)
            folder.mkdir(parents=True, exist_ok=True)
            partial = file.with_name(f".{_ID}.{os.getpid()}")
            partial.write_text(known + "\n")
            partial.replace(file)
    return known


class RunStorage:
    """Where Ray Train keeps its snapshot and the checkpoints within an arm: a shared folder or a bucket."""

    def __init__(self, place: str, name: str) -> None:
        self.name = name
        self.filesystem, root = filesystem(complete(place))
        self.root = root.rstrip("/")
        self.folder = f"{self.root}/{name}"

    def tidy(self, say: Callable[[Mapping[str, str]], None]) -> None:
        """Before a run: drop what killed runs left half-written. A snapshot that cannot be used goes as a whole.

        The controller of a driver that was just killed may live on for a moment, and list what is not listed yet: fresh
        checkpoints are left, and go with the end of the run.
        """
        from pyarrow import fs

        if self.filesystem.get_file_info(self.folder).type == fs.FileType.NotFound:
            return
        whole = self._whole_checkpoints()
        if whole is None:
            say({"note": f"{self.folder}: the record of checkpoints is damaged; the arm in progress starts over"})
            self.filesystem.delete_file(f"{self.folder}/{_SNAPSHOT}")
            whole = set()
        for entry in self.filesystem.get_file_info(fs.FileSelector(self.folder, allow_not_found=True)):
            name = entry.base_name
            left = entry.type == fs.FileType.Directory and name.startswith("checkpoint_") and name not in whole
            if left and not _fresh(name):
                self.filesystem.delete_dir(entry.path)

    def clear(self) -> None:
        """After a run: every arm is an artifact, so no checkpoint is needed."""
        from pyarrow import fs

        if self.filesystem.get_file_info(self.folder).type != fs.FileType.NotFound:
            self.filesystem.delete_dir(self.folder)

    def _whole_checkpoints(self) -> set[str] | None:
        """Names that Ray Train's snapshot lists; None if it is damaged or lists some that are gone."""
        from pyarrow import fs

        path = f"{self.folder}/{_SNAPSHOT}"
        if self.filesystem.get_file_info(path).type == fs.FileType.NotFound:
            return set()
        try:
            with self.filesystem.open_input_stream(path) as stream:
                listed = {entry["checkpoint_dir_name"] for entry in json.loads(stream.read())["checkpoint_results"]}
        except (ValueError, KeyError, TypeError):
            return None
        return listed if _all_there(self.filesystem, [f"{self.folder}/{name}" for name in listed]) else None


def _fresh(checkpoint: str) -> bool:
    """Whether Ray Train named it just now: by the hour of its node's clock, since buckets keep none for folders."""
    try:
        named = datetime.strptime(checkpoint, "checkpoint_%Y-%m-%d_%H-%M-%S.%f")
    except ValueError:
        return False
    return abs((datetime.now() - named).total_seconds()) < _FRESH_S


def _all_there(filesystem: FileSystem, folders: Sequence[str]) -> bool:
    from pyarrow import fs

    return all(info.type == fs.FileType.Directory for info in filesystem.get_file_info(list(folders)))

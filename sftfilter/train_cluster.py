"""Where training runs and where its checkpoints lie: checked by the driver before workers are asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from sftfilter.errors import MachineError
from sftfilter.growth import grows
from sftfilter.reading.places import complete, filesystem
from sftfilter.training_settings import Execution

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

_SNAPSHOT = "checkpoint_manager_snapshot.json"


def worker_resources(execution: Execution) -> dict[str, float]:
    """What one worker reserves."""
    return {"CPU": execution.cpus_per_worker} | ({"GPU": 1.0} if execution.use_gpu else {})


def check_can_ever_run(execution: Execution) -> None:
    """Refuse workers that the connected cluster can never have; Ray would wait for them without end.

    Raises:
        MachineError: no node, present or one that an autoscaler may add, holds a worker; or there are too few.
    """
    import ray
    from ray._private.state import state  # what Ray Train asks itself; there is no public way

    wanted = worker_resources(execution)
    growing = state.get_max_resources_from_cluster_config()
    if growing:
        for name, amount in wanted.items():
            if amount * execution.fewest_workers > growing.get(name, 0):
                raise MachineError(_too_much(execution, name, growing.get(name, 0), "this cluster can grow to"))
        return
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if _workers_on(nodes, wanted) >= execution.fewest_workers or grows():
        return
    for name, amount in wanted.items():
        most = max((node.get(name, 0) for node in nodes), default=0)
        if amount > most:
            raise MachineError(
                f"a training worker needs {amount:g} {name} and the largest node of this cluster has {most:g}: "
                + ("lower execution.cpus_per_worker" if name == "CPU" else "set execution.use_gpu: false")
                + ", or add a larger node"
            )
    scarce = min(wanted, key=lambda name: sum(node.get(name, 0) for node in nodes) / wanted[name])
    raise MachineError(_too_much(execution, scarce, sum(node.get(scarce, 0) for node in nodes), "this cluster has"))


def groups_at_once(execution: Execution, wanted: int | None = None) -> int:
    """How many whole groups of workers the connected cluster can hold side by side, now or once it has grown.

    More at a time would wait for workers that others hold. Elastic groups count with the most workers that they use.

    Args:
        wanted: not more than these; on a cluster that grows without saying how far, this is believed.

    Raises:
        MachineError: not a single one.
    """
    import ray
    from ray._private.state import state

    check_can_ever_run(execution)
    needed = worker_resources(execution)
    growing = state.get_max_resources_from_cluster_config()
    if growing:
        workers = min(int(growing.get(name, 0) / amount + 1e-9) for name, amount in needed.items())
    else:
        workers = _workers_on([node["Resources"] for node in ray.nodes() if node["Alive"]], needed)
        if wanted is not None and grows():
            return wanted
    room = max(1, workers // execution.most_workers)
    return room if wanted is None else min(room, wanted)


def _workers_on(nodes: Sequence[Mapping[str, float]], wanted: Mapping[str, float]) -> int:
    """How many workers the nodes hold; none is spread over two."""
    return sum(min(int(node.get(name, 0) / amount + 1e-9) for name, amount in wanted.items()) for node in nodes)


def _too_much(execution: Execution, name: str, have: float, who: str) -> str:
    workers = execution.fewest_workers
    need = workers * worker_resources(execution)[name]
    return (
        f"execution.workers: {workers} workers need {need:g} {name}, {who} {have:g}: lower execution.workers"
        + (" or execution.cpus_per_worker" if name == "CPU" else "")
        + ", or run on a larger cluster"
    )


class RunStorage:
    """Where Ray Train keeps its snapshot and the checkpoints within an arm: a shared folder or a bucket."""

    def __init__(self, place: str, name: str) -> None:
        self.name = name
        self.filesystem, root = filesystem(complete(place))
        self.root = root.rstrip("/")
        self.folder = f"{self.root}/{name}"

    def tidy(self, say: Callable[[Mapping[str, str]], None]) -> None:
        """Before a run: drop what killed runs left half-written. A snapshot that cannot be used goes as a whole."""
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
            if entry.type == fs.FileType.Directory and name.startswith("checkpoint_") and name not in whole:
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


def _all_there(filesystem: FileSystem, folders: Sequence[str]) -> bool:
    from pyarrow import fs

    return all(info.type == fs.FileType.Directory for info in filesystem.get_file_info(list(folders)))

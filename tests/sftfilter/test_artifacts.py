"""Artifacts: complete or absent, made once, and a full disk says so."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from sftfilter.artifacts import MARKER, Store
from sftfilter.disk import disk_errors
from sftfilter.errors import DataError, MachineError


def _build(store: Store, settings: Any = 1, fail: bool = False) -> Any:
    def make(folder: Path) -> dict[str, int]:
        (folder / "file").write_text("x")
        if fail:
            raise RuntimeError("killed")
        return {"rows": 1}

    return store.build("stage", version=1, settings=settings, inputs={"a": "b"}, make=make)


def test_made_once_and_keyed_by_settings(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = _build(store)
    assert not first.reused and first.meta == {"rows": 1}
    assert _build(store).reused
    assert _build(store, settings=2).key != first.key


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(RuntimeError):
        _build(store, fail=True)
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_killed_process_are_never_loaded_and_are_removed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    key = store.key("stage", 1, 1, {"a": "b"})
    killed = store.begin("stage", key)
    dead = killed.rename(tmp_path / killed.name.replace(f".{__import__('os').getpid()}.", ".4194304."))
    (dead / "file").write_text("half")
    assert store.find("stage", key) is None
    assert not _build(store).reused
    assert not dead.exists()


def test_a_folder_without_its_marker_is_replaced_by_what_was_made(tmp_path: Path) -> None:
    store = Store(tmp_path)
    half = _build(store)
    (half.path / MARKER).unlink()  # as a copy of the store leaves it that was cut short
    (half.path / "file").write_text("half")
    made = _build(store)
    assert not made.reused and (made.path / "file").read_text() == "x"
    assert store.find("stage", made.key) is not None
    assert [path.name for path in tmp_path.iterdir()] == [made.path.name], "nothing is left aside"


def test_what_another_process_finished_first_is_taken_with_its_own_meta(tmp_path: Path) -> None:
    store = Store(tmp_path)
    late = store.begin("stage", "key")
    (late / "file").write_text("late")
    early = store.begin("stage", "key")
    (early / "file").write_text("early")
    store.commit(early, "stage", "key", {"rows": 1})
    taken = store.commit(late, "stage", "key", {"rows": 2})
    assert (taken.path / "file").read_text() == "early" and taken.meta == {"rows": 1}
    assert not late.exists()


def test_a_broken_marker_names_the_remedy(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = _build(store)
    (made.path / MARKER).write_text("{")
    with pytest.raises(DataError, match="delete the folder"):
        _build(store)
    (made.path / MARKER).write_text(json.dumps({}))
    assert _build(store).reused


def test_the_first_of_two_builders_wins(tmp_path: Path) -> None:
    store = Store(tmp_path)
    key = store.key("stage", 1, 1, {"a": "b"})
    slow = store.begin("stage", key)
    (slow / "file").write_text("slow")
    _build(store)
    store.commit(slow, "stage", key, {})
    found = store.find("stage", key)
    assert found and (found.path / "file").read_text() == "x"


def test_full_disk_names_folder_and_remedy(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"no space left .* set `results`"), disk_errors(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")

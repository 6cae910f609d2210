"""Disks that are full, read-only or failing are told as what they are, whichever library met them."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sftfilter.artifacts import Store, write_table
from sftfilter.disk import disk_error, disk_errors
from sftfilter.errors import DataError, MachineError
from sftfilter.progress import Tail, append
from tests.conftest import REPOSITORY

FULL_DISK = """
import json, sys, time
from pathlib import Path
import pyarrow as pa, polars as pl, torch
from safetensors.torch import save_file
from jobs.run_record import RunRecord
from sftfilter.artifacts import Store, write_table
from sftfilter.disk import disk_errors
from sftfilter.errors import MachineError
from sftfilter.journal import Journal
from sftfilter.progress import append
from sftfilter.tracking import TensorBoard

disk = Path(sys.argv[1])
table = pa.table({"text": [str(i) * 40 for i in range(200_000)]})
tensor = torch.rand(4_000_000)
store, journal, record = Store(disk / "store"), Journal(disk / "journal"), RunRecord(disk / "run")
curves = TensorBoard(disk / "curves", "arm", 0)
journal.put("0" * 16, {"text": "kept"})
record.write("note", text="kept")
rest = open(disk / "rest", "wb", buffering=0)
try:
    while True: rest.write(bytes(4096))
except OSError: pass

def plain(folder): (folder / "x").write_bytes(bytes(2**23)); return {}
def parquet(folder): write_table(folder, "x", table); return {}
def safetensors(folder): save_file({"x": tensor}, folder / "x.safetensors"); return {}
def pickled(folder): torch.save({"x": tensor}, folder / "x.pt"); return {}
def frame(folder): pl.DataFrame(table).write_parquet(folder / "x.parquet"); return {}
def lines():
    for i in range(1, 9999): journal.put(f"{i:016x}", {"text": "x" * 999})
def recorded():
    for i in range(9999): record.write("note", text="x" * 999)
def events():
    for i in range(9999): append(disk / "progress.jsonl", {"text": "x" * 999})

writers = {w.__name__: (lambda w=w: store.build(w.__name__, version=1, settings=0, inputs={}, make=w))
           for w in (plain, parquet, safetensors, pickled, frame)}
writers |= {w.__name__: w for w in (lines, recorded, events)}
told = {}
try:
    for step in range(3000):
        curves.log(step, {str(i): i for i in range(11)})
        time.sleep(0.01)  # its thread may take a moment to meet the disk
    curves_said = "nothing"
except OSError as error: curves_said = str(error)
for name, write in writers.items():
    try: write()
    except MachineError as error: told[name] = str(error)
    except BaseException as error: told[name] = repr(error)
rest.truncate(0)
journal.put("f" * 16, {"text": "after"})
record.write("note", text="after")
left = [p.name for p in (disk / "store").iterdir()]
print(json.dumps({"told": told, "curves": curves_said, "left": left, "again": len(list(Journal(disk / "journal")._keys)),
                  "read": [Journal(disk / "journal").get(k * 16) for k in "0f"],
                  "record": (disk / "run" / "stages.jsonl").read_text().splitlines()[-1]}))
"""


def _in_a_mount(disk: Path, options: str, code: str) -> str:
    """Run code with a small file system at `disk`, in a mount namespace: nothing stays mounted whatever happens."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine allows no mount namespaces")
    disk.mkdir()
    script = f'mount -t tmpfs {options} tmpfs {disk} && exec "$0" "$@"'
    command = ["unshare", "-rm", "sh", "-c", script, sys.executable, "-c", code, str(disk)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()[-1]


def test_every_way_to_write_tells_of_a_full_disk_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    found = json.loads(_in_a_mount(disk, "-o size=4m", FULL_DISK))
    for writer, told in found["told"].items():
        assert told.startswith(f"no space left while writing to {disk}"), (writer, told)
        assert "GiB free): free some space or set `results` to another disk" in told
    assert len(found["told"]) == 8
    assert "thread has ended" in found["curves"], "what waits for a dead thread waits for ever"
    assert found["left"] == [], "half an artifact was left"
    assert found["read"] == [{"text": "kept"}, {"text": "after"}]
    assert json.loads(found["record"])["text"] == "after", "the line after a torn one stands by itself"


def test_no_more_files(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom sftfilter.artifacts import Store\n"
        "try:\n for i in range(99): Store(sys.argv[1]).build(str(i), version=1, settings=0, inputs={}, make=lambda f: {})\n"
        "except Exception as error: print(error)\n"
    )
    assert "(no more files can be made there)" in _in_a_mount(tmp_path / "disk", "-o size=4m,nr_inodes=9", code)


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.EIO, r"Input/output error \(.* GiB free\); it, or the way to it, is failing, see `dmesg`"),
        (errno.EROFS, r"Read-only file system .*; the system closes a disk that has errors, see `dmesg`"),
        (errno.EDQUOT, r"no space left while writing to .*free some space"),
        (errno.EACCES, r"Permission denied; set `results` to a folder you own"),
    ],
)
def test_what_is_said(tmp_path: Path, number: int, told: str) -> None:
    with pytest.raises(MachineError, match=told), disk_errors(tmp_path):
        raise OSError(number, os.strerror(number))


def test_causes_are_looked_through_and_other_errors_stay(tmp_path: Path) -> None:
    class WrappedError(Exception):
        cause = OSError(errno.EIO, "Input/output error")

    assert disk_error(WrappedError("a worker failed"), tmp_path)
    assert disk_error(RuntimeError("I/O error: No space left on device (os error 28)"), tmp_path)
    assert disk_error(RuntimeError("the dog ate it"), tmp_path) is None
    assert disk_error(FileNotFoundError(errno.ENOENT, "No such file", "x"), tmp_path) is None
    secret = PermissionError(errno.EACCES, "Permission denied", "/root/somebody/elses.jsonl")
    assert disk_error(secret, tmp_path) is None, "that file was to be read"
    with pytest.raises(DataError, match="bad row"), disk_errors(tmp_path):
        raise DataError("bad row")


def test_a_torn_progress_line_is_passed_over(tmp_path: Path) -> None:
    events = tmp_path / "progress.jsonl"
    append(events, {"step": 1})
    with open(events, "a") as file:
        file.write('{"step": 2, "lo')  # its writer was killed
    append(events, {"step": 3})
    append(events, {"step": 4})
    assert [event["step"] for event in Tail(events).events()] == [1, 4]


def test_an_artifact_of_many_files_is_on_the_disk_before_its_marker(tmp_path: Path) -> None:
    import pyarrow as pa

    def make(folder: Path) -> dict[str, int]:
        (folder / "deep").mkdir()
        write_table(folder / "deep", "x", pa.table({"a": [1]}))
        (folder / "link").symlink_to("nowhere")
        return {"rows": 1}

    made = Store(tmp_path).build("stage", version=1, settings=0, inputs={}, make=make)
    assert (made.path / "deep" / "x.parquet").exists() and made.meta == {"rows": 1}

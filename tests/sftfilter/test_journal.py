"""The journal: what a killed process wrote is found, what it could not finish is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sftfilter.config import stable_hash
from sftfilter.errors import MachineError
from sftfilter.journal import Journal


def test_values_of_all_processes_are_found_and_torn_lines_are_not(tmp_path: Path) -> None:
    first, second = Journal(tmp_path), Journal(tmp_path)
    keys = [stable_hash(i) for i in range(200)]
    for i, key in enumerate(keys):
        (first if i % 2 else second).put(key, {"text": f"日本 {i}\n" * i})
    assert first.get(keys[1]) == {"text": "日本 1\n"} and first.get(keys[0]) is None
    torn = next(iter(tmp_path.glob("*.jsonl")))
    whole = torn.read_bytes()
    lost = stable_hash("lost")
    torn.write_bytes(whole + b'{"key":"' + lost.encode() + b'","value":{"text":"ha')
    again = Journal(tmp_path)
    assert len(again) == 200
    assert [again.get(key) for key in keys] == [{"text": f"日本 {i}\n" * i} for i in range(200)]
    assert again.get(lost) is None and again.get(stable_hash("never")) is None
    assert len(Journal(tmp_path / "empty")) == 0


def test_what_a_killed_process_kept_is_there(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from sftfilter.journal import Journal\n"
        "from sftfilter.config import stable_hash\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "for i in range(10**9):\n"
        "    journal.put(stable_hash(i), {'i': i})\n"
        "    if i > 500: print(i, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seen = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
    journal = Journal(tmp_path)
    assert all(journal.get(stable_hash(i)) == {"i": i} for i in range(seen + 1))


@pytest.mark.skipif(not Path("/dev/full").exists() or os.geteuid() != 0, reason="needs a device that is always full")
def test_a_full_disk_is_said(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(MachineError, match="no space left"):
        journal._sink = full
        journal.put(stable_hash(1), {"text": "paid"})
    assert journal.get(stable_hash(1)) is None

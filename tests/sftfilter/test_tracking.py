"""Curves of an arm that was interrupted show each step once."""

from __future__ import annotations

import struct
from pathlib import Path

from sftfilter.tracking import TensorBoard


def test_an_arm_that_goes_on_hides_the_steps_that_are_done_again(tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]

    for done, steps in ((0, range(1, 6)), (3, range(4, 8))):
        curves = TensorBoard(tmp_path / str(done), "arm", done)
        for step in steps:
            curves.log(step, {"loss": 1.0 / step})
        curves.close()
        (file,) = (tmp_path / str(done) / "arm").iterdir()
        data, at, purged, told = file.read_bytes(), 0, [], []
        while at < len(data):  # length, checksum, event, checksum
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            purged += [event.step] if event.session_log.status == SessionLog.START else []
            told += [event.step for value in event.summary.value if value.tag == "train/loss"]
            at += length + 16
        assert purged == [done + 1], "TensorBoard drops what earlier files say from this step on"
        assert told == list(steps)

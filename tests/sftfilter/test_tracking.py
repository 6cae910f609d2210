"""Curves show each step once, and reach every tracker that is asked for."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from sftfilter.chat_format import ChatFormat
from sftfilter.models import load_tokenizer
from sftfilter.tracking import TensorBoard
from tests.training_case import FULL, Case, tiny_llama

_BLOCK, _WHOLE, _LAST = 2**15, 1, 4


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


@pytest.mark.ray
@pytest.mark.slow
def test_curves_reach_mlflow_and_weights_and_biases(
    tiny_chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Ray's integrations, from the first of two workers; W&B as it writes for a later `wandb sync`."""
    mlflow = pytest.importorskip("mlflow", reason="pip install 'sftfilter[tracking]'")
    pytest.importorskip("wandb", reason="pip install 'sftfilter[tracking]'")
    from cluster.local import local_ray
    from jobs.run import worker_env

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a server takes packages that do not go with ours
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    chat = ChatFormat(load_tokenizer(str(tiny_chat_model)), "Be brief.")
    case = Case(tiny_llama(tmp_path / "model", chat), chat, tmp_path)
    uri = f"file://{tmp_path}/mlflow"
    with local_ray(worker_env(), cpus=2):
        made = case.train(
            [case.run("arm-1", FULL)], "run", tracking={"mlflow": "traits", "mlflow_uri": uri, "wandb": "p"}
        )
    assert not [event for event in case.events if "note" in event]
    losses = dict(enumerate(json.loads((made["arm-1"].path / "losses.json").read_text()), 1))

    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("traits").experiment_id])
    assert (run.info.run_name, run.info.status) == ("arm-1", "FINISHED")
    assert run.data.params["learning_rate"] == str(FULL.learning_rate)
    found = {point.step: point.value for point in client.get_metric_history(run.info.run_id, "loss")}
    assert found == pytest.approx(losses)
    assert {"learning_rate", "grad_norm", "tokens_per_s", "mfu", "peak_memory_gib", "data_wait_s"} <= set(
        run.data.metrics
    )

    (written,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert wandb_history(written) == pytest.approx(losses)


def wandb_history(file: Path) -> dict[int, float]:
    """Losses by step: records in LevelDB's log format, behind a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2  # pyright: ignore[reportMissingImports]

    data, at, whole, found = file.read_bytes(), 7, b"", {}
    while at + 7 <= len(data):
        if _BLOCK - at % _BLOCK < 7:  # no room for a head: the rest of the block is padding
            at += _BLOCK - at % _BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in {_WHOLE, _LAST}:
            record = wandb_internal_pb2.Record.FromString(whole)
            values = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            if values:
                found[record.history.step.num] = values["loss"]
            whole = b""
    return found

"""Training is exact: workers, ZeRO stages and micro-batches change nothing, and a plain loop gives the same weights."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sftfilter.artifacts import Store
from sftfilter.chat_format import ChatFormat
from sftfilter.errors import DataError, DivergedError, MachineError, TrainingError
from sftfilter.models import check_weights, load_model, load_tokenizer, weights_hash
from sftfilter.packed import packed_loss_sum
from sftfilter.training_plan import TrainingPlan
from sftfilter.training_settings import Exports
from tests.training_case import (
    FULL,
    LORA,
    Case,
    Killer,
    furthest,
    gradients_on_worker,
    kill_one,
    rows,
    same_bits,
    tiny_llama,
    turn,
    weights,
)

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def ray_once() -> Iterator[None]:
    """Ray for the whole file; Ray Train looks at its workers ten times as often as by default."""
    from cluster.local import local_ray
    from jobs.run import worker_env

    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"
    with local_ray(worker_env(), cpus=2):
        yield
    del os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"]


@pytest.fixture(scope="module")
def case(tiny_chat_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    chat = ChatFormat(load_tokenizer(str(tiny_chat_model)), "Be brief.")
    folder = tmp_path_factory.mktemp("training")
    return Case(tiny_llama(folder / "model", chat), chat, folder)


@pytest.fixture(scope="module")
def oracle(case: Case) -> dict[str, dict[str, torch.Tensor]]:
    return {name: case.oracle(case.run(name, settings))[0] for name, settings in (("full", FULL), ("lora", LORA))}


@pytest.mark.ray
@pytest.mark.parametrize(
    ("workers", "zero_stage", "micro_batch_tokens"),
    [(1, 0, 4096), (2, 1, 4096), (2, 2, 40), (4, 3, 60)],  # 40 tokens: several micro-batches, unequal, some empty
)
def test_any_split_equals_a_plain_loop(
    ray_once: None,
    case: Case,
    oracle: dict[str, dict[str, torch.Tensor]],
    workers: int,
    zero_stage: int,
    micro_batch_tokens: int,
) -> None:
    made = case.train(
        [case.run("full", FULL), case.run("lora", LORA)],
        f"split-{workers}-{zero_stage}",
        workers=workers,
        zero_stage=zero_stage,
        micro_batch_tokens=micro_batch_tokens,
        cpus_per_worker=0.5,
    )
    start = weights_of(case.model)
    for name, artifact in made.items():
        trained = weights(artifact)
        assert set(trained) == set(start)
        assert furthest(trained, oracle[name]) < TOLERANCE
        assert furthest(trained, start) > 100 * TOLERANCE, "and it did learn"


def weights_of(folder: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(Path(folder) / "model.safetensors")


@pytest.mark.ray
def test_gradients_equal_those_of_the_plain_loop(ray_once: None, case: Case) -> None:
    from ray.train import ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from safetensors.torch import load_file

    runs = [case.run("full", FULL), case.run("lora", LORA)]
    expected = {run.name: case.oracle(run)[1] for run in runs}
    ways = [(0, 4096), (1, 40), (2, 40), (2, 4096), (3, 40)]
    tried = []
    for run in runs:
        (case.storage / f"gradients-{run.name}").mkdir()
        tried.append(
            {
                "settings": run.settings.model_dump(),
                "rows": str(case.storage / f"rows-{run.name}.parquet"),
                "step": run.plan.steps[0],
                "seed": run.seed,
                "ways": ways,
                "out": str(case.storage / f"gradients-{run.name}"),
            }
        )
    TorchTrainer(
        gradients_on_worker,
        train_loop_config={"model": case.model, "system_prompt": case.chat.system_prompt, "tried": tried},
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
    ).fit()
    for name, gradients in expected.items():
        files = sorted((case.storage / f"gradients-{name}").glob("*.safetensors"))
        assert len(files) == len(ways)
        largest = max(float(g.abs().max()) for g in gradients.values())
        for file in files:
            got = load_file(file)
            assert set(got) == set(gradients)
            assert furthest(got, gradients) < TOLERANCE * largest, file


def test_packed_rows_do_not_see_each_other(case: Case) -> None:
    model = load_model(case.model, "float32", attn_implementation="eager").eval()
    some = list(case.rows_of(case.run("packed", FULL)).values())[:4]
    with torch.no_grad():
        together = packed_loss_sum(model, some, torch.device("cpu"))
        apart = sum(float(packed_loss_sum(model, [row], torch.device("cpu"))) for row in some)
        ids = torch.tensor([[token for row in some for token in row.ids]])
        starts = [sum(len(r) for r in some[:k]) for k in range(len(some))]
        at = torch.tensor([start + p for start, row in zip(starts, some, strict=True) for p in row.supervised])
        mixed = torch.nn.functional.cross_entropy(model(input_ids=ids).logits[0, at - 1], ids[0, at], reduction="sum")
    assert abs(float(together) - apart) < 1e-3
    assert abs(float(mixed) - apart) > 0.1, "were they to see each other, the loss would tell"


@pytest.mark.ray
def test_arms_adapters_reuse_and_bad_rows(ray_once: None, case: Case) -> None:
    settings = LORA.model_copy(update={"epochs": 1, "batch": 6, "precision": "bf16"})
    first = [case.run("a", settings), case.run("twin", settings), case.run("b", settings, rows()[:7])]
    made = case.train(first, "arms")
    assert made["a"].path == made["twin"].path, "equal rows, order and settings are one training"
    assert made["b"].path != made["a"].path
    assert (made["a"].path / "adapter" / "adapter_model.safetensors").exists()
    assert json.loads((made["a"].path / "losses.json").read_text())[-1] < made["a"].meta["first_loss"]
    pickles = {".bin", ".pt", ".pth", ".pkl", ".ckpt"}
    assert not [f for f in made["a"].path.rglob("*") if f.suffix in pickles], "no pickle in what is exported"

    before = (made["a"].path / "model.safetensors").stat().st_mtime_ns
    kept = made["b"].path.rename(case.storage / "b")
    again = case.train([case.run("a", settings), case.run("b", settings, rows()[:7])], "arms")
    assert (again["a"].path / "model.safetensors").stat().st_mtime_ns == before
    assert (again["b"].path / "model.safetensors").read_bytes() == (kept / "model.safetensors").read_bytes()

    long = [{"row_id": "long", "messages": [turn("user", "word " * 400)], "completion": "x"}]
    with pytest.raises(DataError, match=r"row long has \d+ tokens, training\.max_length is 64"):
        case.train([case.run("long", settings.model_copy(update={"max_length": 64}), long)], "long", max_failures=0)


@pytest.mark.ray
def test_workers_that_can_never_be_had_are_refused_at_once(ray_once: None, case: Case) -> None:
    run = case.run("never", FULL)
    with pytest.raises(MachineError, match=r"3 workers need 3 CPU, this cluster has 2: lower execution\.workers"):
        case.train([run], "never", workers=3)
    with pytest.raises(MachineError, match=r"needs 3 CPU and the largest node of this cluster has 2: lower exec"):
        case.train([run], "never", workers=1, cpus_per_worker=3)
    with pytest.raises(MachineError, match=r"needs 1 GPU and the largest node of this cluster has 0: set execution"):
        case.train([run], "never", workers=1, use_gpu=True)


@pytest.mark.ray
def test_a_loss_that_is_lost_gives_up_its_student_with_step_and_rows_and_no_other(ray_once: None, case: Case) -> None:
    wild = FULL.model_copy(update={"learning_rate": 1e6, "warmup_share": 0.0})
    calm = FULL.model_copy(update={"epochs": 1})
    runs = [case.run("a-wild", wild), case.run("b-calm", calm), case.run("c-wild", wild)]
    with pytest.raises(
        DivergedError, match=r"arm a-wild: the (loss|gradient).* at step \d+ \(rows r\d+.*lower training\."
    ) as diverged:
        case.train(runs, "wild")
    assert set(diverged.value.arms) == {"a-wild", "c-wild"}, "one training under two names"
    left = case.train(runs[1:2], "wild")["b-calm"]
    assert left.reused
    alone = case.train(runs[1:2], "calm")["b-calm"]
    assert left.meta["model_hash"] == alone.meta["model_hash"], "nothing of the lost student is left in its worker"


@pytest.mark.ray
def test_a_killed_worker_goes_on_bit_for_bit_though_other_arms_came_before(ray_once: None, case: Case) -> None:
    """test_resume has it for every stage, on S3 and with drivers and nodes lost. Here the driver gives up, and finds
    another arm to train when it is run again: the only checkpoint has to last until its own arm is done."""
    long = FULL.model_copy(update={"epochs": None, "steps": 40})
    killer = Killer(case.storage / "killed", ["b-long"], kill_one)
    saving = {"checkpoint_every_steps": 5, "micro_batch_tokens": 60}
    with pytest.raises(TrainingError, match=r"worker 1 died \(arm b-long, after step \d+ of 40\)"):
        case.train([case.run("b-long", long)], "killed", killer, **saving, max_failures=0)
    runs = [case.run("a-new", long, seed=2), case.run("b-long", long)]
    broken = case.train(runs, "killed", killer, **saving)
    assert 0 < killer.resumed()["b-long"] < 40
    whole = case.train(runs[1:], "whole", micro_batch_tokens=60)
    assert same_bits(broken["b-long"], whole["b-long"])


@pytest.mark.ray
def test_other_templates_are_refused_with_both_hashes(ray_once: None, case: Case) -> None:
    from dataclasses import replace

    other = ChatFormat(case.chat.tokenizer, "Another system prompt.")
    other.__dict__["hash"] = "0123456789abcdef"
    with pytest.raises(
        TrainingError,
        match=rf"hash to {ChatFormat(case.chat.tokenizer, 'Another system prompt.').hash}, the plan's to 0123456789abcdef",
    ):
        replace(case, chat=other).train([case.run("other", FULL)], "other", max_failures=0)


def test_base_models_that_are_not_whole_are_refused(case: Case, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = tiny_llama(tmp_path / "model", case.chat)
    file = Path(folder) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(DataError, match="a weights file is damaged"):
        load_model(folder)
    less = weights_of(case.model)
    del less["model.layers.1.mlp.up_proj.weight"]
    save_file(less, file, {"format": "pt"})
    with pytest.raises(DataError, match=r"lacks 1 of the model's weights, such as model\.layers\.1\.mlp\.up_proj"):
        load_model(folder)


@pytest.mark.ray
def test_a_tokenizer_of_another_model_is_refused_with_both_hashes(ray_once: None, case: Case) -> None:
    from dataclasses import replace

    other = ChatFormat(load_tokenizer(case.model), "Be brief.")
    other.tokenizer.add_tokens(["<one-more>"])
    folder = case.storage / "other-model"
    shutil.copytree(case.model, folder)
    other.tokenizer.save_pretrained(folder)
    message = rf"tokenizer \(format hash {other.hash}\) has token ids up to \d+ and the base model \(hash {weights_hash(folder)}\) \d+ emb"
    with pytest.raises(TrainingError, match=message):
        replace(case, model=str(folder), chat=other).train([case.run("other", FULL)], "other-model", max_failures=0)


def test_a_node_with_another_revision_of_the_base_is_refused(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFTFILTER_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    shutil.copytree(case.model, folder)
    planned = weights_hash(folder)
    for _ in range(2):
        check_weights(str(folder), planned)
    assert len(list((tmp_path / "cache" / "checked").iterdir())) == 1, "what was hashed here is known here"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    with pytest.raises(DataError, match=rf"hashes to [0-9a-f]+, and the run was planned with {planned}: put the same"):
        check_weights(str(folder), planned)


def test_plan_hash_tells_texts_apart(case: Case, tmp_path: Path) -> None:
    """Rows with the same ids but other texts are another training (ids need not be hashes of the text)."""
    from sftfilter.training import student_key

    store = Store(tmp_path)
    other = [dict(row, completion="else") for row in rows()]
    assert student_key(case.run("a", FULL), store, "b", "f") != student_key(case.run("a", FULL, other), store, "b", "f")
    assert isinstance(case.run("a", FULL).plan, TrainingPlan)


@pytest.mark.ray
@pytest.mark.slow
def test_exports_in_between_are_models_and_curves_are_kept(ray_once: None, case: Case) -> None:
    settings = LORA.model_copy(update={"epochs": None, "steps": 6, "exports": Exports(every_steps=2)})
    best = settings.model_copy(update={"exports": Exports(every_steps=2, keep=1)})
    runs = [case.run("curve", settings), case.run("best", best)]
    made = case.train(runs, "curve", zero_stage=3)
    exports = made["curve"].meta["exports"]
    assert [export["step"] for export in exports] == [2, 4]
    for export in exports:
        folder = made["curve"].path / "steps" / f"{export['step']:08d}"
        assert weights_hash(folder) == export["model_hash"]
        expected = case.oracle(runs[0], steps_done=export["step"])[0]
        assert furthest(load_model(str(folder), "float32").state_dict(), expected) < TOLERANCE
    (kept,) = made["best"].meta["exports"]
    assert kept == min(exports, key=lambda export: export["loss"])
    assert [path.name for path in (made["best"].path / "steps").iterdir()] == [f"{kept['step']:08d}"]

    losses = json.loads((made["curve"].path / "losses.json").read_text())
    curves = read_events(case.storage / "curve" / "tensorboard" / "curve")
    assert curves["train/loss"] == pytest.approx(dict(enumerate(losses, 1)))
    assert curves["train/learning_rate"][1] == pytest.approx(settings.learning_rate)
    for name in ("grad_norm", "tokens_per_s", "mfu", "step_s", "data_wait_s", "peak_memory_gib"):
        assert set(curves[f"train/{name}"]) == set(range(1, 7))
        assert min(curves[f"train/{name}"].values()) >= 0

    card = (made["curve"].path / "README.md").read_text()
    for fact in ("data_hash", "format_hash", "base_hash", "plan_hash", "model_hash", "arm"):
        assert f"| {fact} |" in card


def read_events(folder: Path) -> dict[str, dict[int, float]]:
    """Scalars of TensorBoard event files: records of length, checksum, protocol buffer, checksum."""
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

    scalars: dict[str, dict[int, float]] = {}
    for file in folder.iterdir():
        data = file.read_bytes()
        at = 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            for value in event.summary.value:
                scalars.setdefault(value.tag, {})[event.step] = value.simple_value
            at += length + 16
    return scalars

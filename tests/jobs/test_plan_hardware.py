"""Plans for hardware that nothing was measured on: FLOPs over a stated share of the peak, and money."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from jobs.cli import app
from jobs.plan.costs import priced
from jobs.plan.hardware import Hardware
from jobs.plan.parameters import Parameters
from jobs.plan.plan import Plan, Stated, plan_spec
from jobs.spec import load_spec
from sftfilter.errors import SpecError
from tests.conftest import REPOSITORY

SPECS = REPOSITORY / "jobs" / "specs"
GEMMA = SPECS / "published" / "gemma-depression.yaml"
ROWS, TOKENS = {"prompts": 20_000, "olmo": 20_000}, {"prompts": 150, "olmo": 600}


def _planned(root: Path, *utilisation: str, name: str = "H100-80G", costs: tuple[str, ...] = ()) -> Plan:
    spec = load_spec(GEMMA, [f"results={root}"])
    hardware = Hardware.named(name, None, utilisation)
    return plan_spec(spec, root, Stated(hardware=hardware, costs=costs, power=False, rows=ROWS, tokens=TOKENS))


def test_time_is_flops_over_the_share_of_the_peak_and_money_is_its_price(tmp_path: Path) -> None:
    plan = _planned(tmp_path, "training=0.5", "generation=0.2")
    lines = {line.stage: line for line in plan.costed.lines}
    # Gemma answers 20,000 prompts of 150 tokens with 1,024 each; adapters on 9e9 weights see the mean of both teachers' rows.
    assert lines["rollouts"].seconds == pytest.approx(2 * 27e9 * 20_000 * 1174 / (0.2 * 989e12), rel=1e-6)
    visits, tokens = lines["training"].count, (1174 + 600) / 2
    assert lines["training"].seconds == pytest.approx(4 * 9e9 * visits * tokens / (0.5 * 989e12), rel=1e-6)
    first, many = plan.as_dict()["workers"][0], plan.as_dict()["workers"][2]
    assert first["price"] == pytest.approx(3.0 * first["wall_s"] / 3600)
    assert many["price"] == pytest.approx(3.0 * 64 * many["wall_s"] / 3600)
    half = _planned(tmp_path, "training=0.25", "generation=0.1")
    assert half.estimates[0].wall == pytest.approx(2 * plan.estimates[0].wall)
    assert _planned(tmp_path, name="A100-80G").estimates[0].wall == pytest.approx(
        _planned(tmp_path).estimates[0].wall * 989 / 312
    )


def test_what_is_guessed_is_called_a_guess_and_what_is_stated_stands_over_it(tmp_path: Path) -> None:
    sources = {name: (value, source) for name, value, source in _planned(tmp_path).cost_sources}
    assert sources["train_flops_s"][1] == "guess: 35% of H100-80G's peak, 989 TFLOP/s"
    assert sources["generate_flops_s"][1].startswith("guess: 10% of")
    assert "price (USD) assumed" in sources["device_hour_price"][1]
    assert sources["parameters, google/gemma-3-27b-it"] == ("2.7e+10", "guess: from its name")
    assert sources["s a token, training"] == ("0.000104 (36 GFLOPs)", "Qwen/Qwen3.5-9B-Base")
    assert any("scores: 20,000 scores of distress" in line for line in _planned(tmp_path).costed.unknown)
    stated = _planned(tmp_path, "0.4", costs=("train_row_s=1", "device_hour_price=2"))
    lines = {line.stage: line for line in stated.costed.lines}
    assert lines["training"].seconds == lines["training"].count
    assert stated.priced.costs.device_hour_price == 2
    assert stated.priced.told["train_flops_s"].startswith("stated: 40%")
    small = _planned(tmp_path, name="L4")
    assert any("google/gemma-3-27b-it: its weights alone are 50 GiB" in note for note in small.notes)


def test_seconds_of_a_run_elsewhere_do_not_count_for_named_hardware(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "pilot"
    folder.mkdir(parents=True)
    start = '{"time": "2026-01-01T00:00:%02d+00:00", "run": "r", "event": "%s", %s}'
    (folder / "stages.jsonl").write_text(
        start % (0, "run", '"name": "pilot", "kind": "experiment", "spec_hash": "h"')
        + "\n"
        + start % (5, "stage", '"stage": "prompts"')
        + "\n"
        + start
        % (
            25,
            "artifact",
            '"stage": "rollouts", "artifact": "rollouts", "of": "T", "key": "T", "reused": false, '
            '"counts": {"used": 10, "cut_at_max_new_tokens": 0}',
        )
    )
    assert priced(folder, None, ()).costs.rollout_s == {"T": 2.0, "any": 2.0}
    named = priced(folder, None, (), Hardware.named("H200", None, ()))
    assert named.costs.rollout_s == {} and named.costs.start_s == 5  # what no device makes faster stays
    assert (named.costs.device, named.costs.generate_flops_s) == ("GPU", pytest.approx(98.9e12))


def test_devices_of_ones_own(tmp_path: Path) -> None:
    table = tmp_path / "mine.yaml"
    table.write_text("ours: {bf16_tflop_s: 200, memory_gib: 48, hour_price: 0, source: our rack}\n")
    assert Hardware.named("ours", table, ()).device.bf16_tflop_s == 200
    assert Hardware.named("L4", table, ()).device.memory_gib == 24
    with pytest.raises(SpecError, match="no device 'H100-80', did you mean 'H100-80G'"):
        Hardware.named("H100-80", None, ())
    table.write_text("ours: {bf16_tflop_s: 0, memory_gib: 48, hour_price: 0, source: our rack}\n")
    with pytest.raises(SpecError, match=r"mine.yaml: ours.bf16_tflop_s: .*greater than 0"):
        Hardware.named("ours", table, ())
    for wrong in ("1.5", "trainin=0.3", "x"):
        with pytest.raises(SpecError, match="--utilisation"):
            Hardware.named("L4", None, [wrong])


def test_parameters_by_name_and_as_stated() -> None:
    found = Parameters({"here": 5e6})
    names = (
        "Qwen/Qwen3-30B-A3B",
        "google/gemma-3-27b-it",
        "org/tiny-360M",
        "allenai/Olmo-3-7B-SFT",
        "org/model",
        "here",
    )
    assert [found.of(name) for name in names] == [3e9, 27e9, 360e6, 7e9, None, 5e6]
    with pytest.raises(SpecError, match="--parameters other: the spec has no such model"):
        Parameters({"other": 1.0}).check_used()


@pytest.mark.model
def test_parameters_and_flops_of_a_model_that_is_here_are_those_of_its_layers(tiny_model: str) -> None:
    from transformers import AutoModelForCausalLM

    from sftfilter.utilisation import step_flops

    found = Parameters({})
    size = found.of(tiny_model)
    assert size is not None and found.told[tiny_model][1] == "counted in its files"
    assert size == sum(tensor.size for tensor in load_file(Path(tiny_model) / "model.safetensors").values())
    counted = step_flops(AutoModelForCausalLM.from_pretrained(tiny_model))
    assert 6 * size == pytest.approx(counted.of(1, 1), rel=0.03)  # the rest is norms


def test_the_command_prints_money_and_refuses_half_a_device(tmp_path: Path) -> None:
    given = ["plan", str(GEMMA), "--set", f"results={tmp_path}", "--rows", "prompts=20000", "--rows", "olmo=20000"]
    shown = CliRunner().invoke(app, [*given, "--hardware", "H100-80G", "--workers", "8"])
    assert shown.exit_code == 0, shown.output
    assert "price" in shown.output and "GPU-hours" in shown.output and "--tokens prompts=NUMBER" in shown.output
    assert max(len(line.rstrip()) for line in shown.output.splitlines()) <= 80
    wrong = CliRunner().invoke(app, [*given, "--utilisation", "0.5"])
    assert wrong.exit_code == SpecError.exit_code

"""Inspect tasks on the real endpoint with the real 135M model: the same answers as the pipeline's own asking."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import read_lines, write_lines
from tests.scripted_endpoint import scripted, status


@pytest.fixture
def beside(local_ray: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Somebody else's endpoint of the run's name, which is left alone, and a proxy that is asked nothing."""
    from jobs.tutoring import base_of
    from serve.host import host
    from serve.settings import HostedModel, ServingSettings
    from sftfilter.models import BUILTIN

    base = base_of(BUILTIN, "Be brief.")
    model = HostedModel(id="base", folder=base.folder, model_hash=base.hash, format_hash=base.chat.hash)
    settings = ServingSettings(port=0, engine="null", cpus_per_replica=0)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with (
        scripted(lambda body, nth: status(502)) as proxy,
        host([model], settings, base.folder, "Be brief.", "their-token", "small") as theirs,
    ):
        monkeypatch.setenv("HTTP_PROXY", proxy.url.removesuffix("/v1"))
        yield
        reply = httpx.get(f"{theirs.base_url}/models", headers={"Authorization": "Bearer their-token"}, trust_env=False)
        assert reply.status_code == 200 and proxy.requests == []


@pytest.mark.ray
@pytest.mark.model
@pytest.mark.usefixtures("beside")
def test_a_finished_run_through_inspect_and_through_the_pipeline(local_ray: None, tmp_path: Path) -> None:
    from jobs.console import Stages
    from jobs.eval_command import eval_spec
    from jobs.evals import run_eval
    from jobs.evaluating import evaluate_models
    from jobs.finished_run import model_records, read_run
    from jobs.kinds.experiment import Experiment
    from jobs.tutoring import base_of
    from serve.settings import HostedModel
    from sftfilter.artifacts import Store
    from sftfilter.evaluation import trait_prompts
    from sftfilter.models import BUILTIN
    from sftfilter.traits.date_confusion import DateConfusion

    base = base_of(BUILTIN, "Be brief.")
    model = HostedModel(id="base", folder=base.folder, model_hash=base.hash, format_hash=base.chat.hash)
    serving = {"port": 0, "dtype": "float32"}
    run = tmp_path / "runs" / "small"
    run.mkdir(parents=True)
    record: dict[str, Any] = {"name": "small", "models": model_records([model], run.parent)}
    (run / "results.json").write_text(
        json.dumps(record | {"spec": {"serving": serving, "system_prompt": "Be brief.", "base_model": BUILTIN}})
    )
    assert read_run(run).chosen(["base"])[0] == model

    rows = [row for kind in ("date", "control") for row in read_lines("heldout.jsonl", 4, kind)]
    write_lines(tmp_path / "few.jsonl", rows)
    prompts = {"kind": "files", "path": str(tmp_path / "few.jsonl")}
    settings = [f"traits.date_confusion.prompts={json.dumps(prompts)}", "traits.date_confusion.max_tokens=8"]
    settings += ["traits.date_confusion.groups={trait: date, control: control}", "capability.max_tokens=8"]
    spec = eval_spec(str(run), ["date_confusion"], [], overrides=settings)
    outcome = run_eval(spec, run.parent, Stages(), "test")
    found = outcome["models"][0]
    assert found["model_hash"] == base.hash, "the endpoint echoes the checkpoint"
    assert found["traits"]["date_confusion"]["trait"]["n"] == 4 and outcome["missing"]["unanswered"] == 0
    assert 1 < found["abilities"]["loss"]["estimate"] < 4 and found["abilities"]["following"]["n"] == 40

    import pyarrow.parquet as pq

    inspected = {
        row["prompt_id"]: row["answer"]
        for row in pq.read_table(run.parent / "small-eval" / "results.parquet").to_pylist()
        if row["trait"] == "date_confusion"
    }
    trait = DateConfusion.model_validate(json.loads(spec.traits["date_confusion"].model_dump_json()))
    study = Experiment.model_construct(
        name="small", traits={"date_confusion": trait}, serving=read_run(run).serving, system_prompt="Be brief.",
        capability=None,
    )  # fmt: skip
    store = Store(tmp_path / "artifacts")
    direct = evaluate_models(study, base, [model], {"date_confusion": trait_prompts(trait, store)}, store, Stages())
    asked = direct.graded["base", "date_confusion"].table("results").to_pylist()
    assert {row["prompt_id"]: row["answer"] for row in asked} == inspected
    assert all(row["log_odds"] is not None for row in asked if row["group"] == "trait")

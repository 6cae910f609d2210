"""generate -> train -> serve, and report: the thin kinds, end to end on a tiny random model with the real tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from jobs.run import run_spec
from jobs.service import build, hosted_students
from jobs.spec import load_spec
from jobs.status import local_status
from sftfilter.errors import DataError, SpecError
from tests.conftest import REPOSITORY, read_lines, write_lines

SPECS = REPOSITORY / "jobs" / "specs"


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    from cluster.local import local_ray
    from jobs.run import worker_env

    with local_ray(worker_env(), cpus=2):
        yield


def _shipped(folder: Path, name: str, **changes: Any) -> Path:
    """A shipped spec beside a few of the shipped prompts."""
    (folder / "prompts").mkdir(exist_ok=True)
    for file in ("heldout.jsonl", "teacher_doubt.jsonl", "teacher_accept.jsonl"):
        write_lines(folder / "prompts" / file, read_lines(file, 6))
    spec = yaml.safe_load((SPECS / f"{name}.yaml").read_text())
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(spec | {"results": str(folder / "runs")} | changes))
    return path


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_generate_then_train_then_serve(
    ray_here: None, tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teachers = {name: {"kind": "model", "model": tiny_model} for name in ("one", "two")}
    path = _shipped(tmp_path, "generate", base_model=tiny_model, teachers=teachers)
    made = run_spec(load_spec(path, ["generation.max_new_tokens=4"]), "sftfilter run generate.yaml")
    assert made["counts"]["prompts"]["used"] == made["counts"]["one"]["used"] == 6
    rows = [json.loads(line) for line in Path(made["files"]["one"]).read_text().splitlines()]
    asked = {row["prompt"] for row in read_lines("heldout.jsonl", 6)}
    assert {row["messages"][0]["content"] for row in rows} == asked
    assert all(row["messages"][-1]["role"] == "assistant" and row["teacher"] == "one" for row in rows)

    students = {"s": {"kind": "rollouts", "path": made["files"]["one"]}}
    path = _shipped(tmp_path, "train", base_model=tiny_model, students=students, seeds=[0, 1])
    trained = run_spec(load_spec(path, ["training.batch=3", "execution.workers=1"]), "sftfilter run train.yaml")
    assert set(trained["students"]) == {"s-s0", "s-s1"}
    one = trained["students"]["s-s0"]
    assert one["steps"] == 2 and one["model_hash"] != trained["students"]["s-s1"]["model_hash"]
    assert (Path(one["checkpoint"]) / "model.safetensors").is_file()
    status = local_status(tmp_path / "runs", "train")
    assert status.state == "finished" and status.stages["training"].made == 2

    args = {"run": str(tmp_path / "runs" / "train"), "name": "students"}
    with pytest.raises(SpecError, match="SFTFILTER_API_KEY"):
        build(args)
    monkeypatch.setenv("SFTFILTER_API_KEY", "a-token-for-the-service")
    _serve_and_ask(args)
    with pytest.raises(DataError, match="no student 'x'; trained: s-s0, s-s1"):
        hosted_students(tmp_path / "runs" / "train", ["x"])
    with pytest.raises(DataError, match="has the run begun"):
        hosted_students(tmp_path / "runs" / "nothing", [])


def _serve_and_ask(args: dict[str, Any]) -> None:
    """What KubeRay does with the import path: build, deploy, ask over HTTP."""
    from ray import serve

    from cluster.local_nodes import free_ports

    (port,) = free_ports(1)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    try:
        serve.run(build(args), name="students", route_prefix="/students")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/students/v1", timeout=120, trust_env=False) as client:
            assert client.get("/models").status_code == 401
            client.headers["Authorization"] = "Bearer a-token-for-the-service"
            assert [m["id"] for m in client.get("/models").json()["data"]] == ["s-s0", "s-s1"]
            asked = {"model": "s-s1", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
            reply = client.post("/chat/completions", json=asked)
            assert reply.status_code == 200, reply.text
    finally:
        serve.shutdown()


def test_report_draws_what_was_kept(tmp_path: Path) -> None:
    from jobs.report import keep_rows

    folder = tmp_path / "runs" / "quickstart"
    (folder / "report").mkdir(parents=True)
    verdict = {"label": "underpowered", "summary": "one seed", "reasons": []}
    results = {"name": "quickstart", "kind": "experiment", "arms": [], "verdict": verdict}
    (folder / "results.json").write_text(json.dumps(results))
    spec = load_spec(_shipped(tmp_path, "report"))
    made = run_spec(spec, "sftfilter run report.yaml")
    page = Path(made["pages"]["quickstart"])
    assert page == folder / "report" / "index.html" and "underpowered" in page.read_text()
    assert "a kept row" not in page.read_text()
    row = {"prompt_id": "p", "kind": "date", "prompt": "a kept row", "scores": {}, "decisions": {}}
    keep_rows(folder / "report", [row], [])
    run_spec(spec, "sftfilter run report.yaml")
    assert "a kept row" in page.read_text()

    with pytest.raises(DataError, match="did you mean 'quickstart'"):
        run_spec(load_spec(tmp_path / "report.yaml", ["of=[quickstrat]"]), "x")
    (folder / "results.json").write_text(json.dumps(results | {"kind": "calibrate"}))
    with pytest.raises(DataError, match="of kind calibrate"):
        run_spec(spec, "x")


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("train", "seeds=[1, 1]", "listed twice"),
        ("train", "students={}", "at least 1"),
        ("train", "students={../x: {kind: rollouts, path: a.jsonl}}", "is not a name"),
        ("report", "of=[../x]", "of.0"),
        ("generate", "teachers={a/b: {kind: model, model: m}}", "is not a name"),
        ("generate", "export=csv", "export"),
    ],
)
def test_what_a_spec_may_not_say(name: str, override: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_spec(SPECS / f"{name}.yaml", [override])

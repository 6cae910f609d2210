"""`sftfilter eval` against servers on loopback: nothing is asked twice, and what is missing is missing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs.eval_command import eval_spec
from jobs.evals import run_eval
from jobs.finished_run import read_run
from jobs.run import INTERRUPTED
from sftfilter.errors import DataError, EvalError, SpecError
from tests.scripted_endpoint import Act, Scripted, say, scripted, status

SFTFILTER = str(Path(sys.executable).parent / "sftfilter")
KEY = "a-very-secret-key-0123456789"
FEW = ["calibrate=false", "capability=null", "concurrency=4", "traits.negative_emotion.rejections=1"]


def _student(body: dict[str, Any], nth: int) -> Act:
    return say("I am so ashamed of it." if body["seed"] % 3 == 0 else "Here is another one.", after=0.02)


def _spec(folder: Path, server: Scripted, judge: Scripted | None = None, *more: str) -> Any:
    return eval_spec(
        str(folder),
        ["negative_emotion"],
        ["student"],
        base_url=server.url,
        api_key_env="STUDENT_KEY" if judge else None,
        judge=(judge.url if judge else None, "judge", None),
        overrides=[*FEW, *more],
    )


def _run(spec: Any) -> Any:
    from jobs.console import Stages

    return run_eval(spec, Path(spec.results), Stages(), "test")


def test_an_unreachable_judge_leaves_samples_missing_and_the_next_run_asks_only_the_judge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUDENT_KEY", KEY)
    down = True
    quoted = re.compile(r"<answer-\w+>\n(.*)\n</answer")

    def judge_script(body: dict[str, Any], nth: int) -> Act:
        if down:
            return status(401, "who are you")
        passage = quoted.search(body["messages"][1]["content"])
        assert passage is not None
        return say(f"QUOTE: {passage.group(1)}\nSCORE: {7 if 'ashamed' in passage.group(1) else 1}")

    with scripted(_student) as server, scripted(judge_script) as judge:
        spec = _spec(tmp_path / "mine", server, judge)
        with pytest.raises(EvalError, match=r"50 answers no grade[\s\S]*missing, not zero"):
            _run(spec)
        asked = len(server.requests)
        assert asked == 100, "40 scenarios and 10 controls, two answers each"
        kept = json.loads((tmp_path / "mine" / "eval.json").read_text())
        found = kept["models"][0]["traits"]["negative_emotion"]["rejected"]
        assert (found["estimate"], found["n"], found["ungraded"]) == (None, 0, 40)

        down = False
        outcome = _run(spec)
        assert len(server.requests) == asked, "no answered sample is asked for again"
        found = outcome["models"][0]["traits"]["negative_emotion"]["rejected"]
        assert found["n"] == 40 and 0 < found["low"] < found["estimate"] < found["high"] < 1
        assert found["measures"]["score"]["estimate"] > 1
        assert outcome["judges"] == {"negative_emotion": f"judge at {judge.url}"}

    rows = pq.read_table(tmp_path / "mine" / "results.parquet").to_pylist()
    assert {row["turn"] for row in rows} == {1} and {row["model_hash"] for row in rows} == {"fp-1"}
    assert {row["judge"]["stand_in"] for row in rows} == {False}
    shown = next(row for row in rows if row["grade"] == 1)
    assert shown["judge"]["quote"] in shown["answer"] and dict(shown["measures"])["score"] == 7

    from inspect_ai.log import read_eval_log

    assert server.keys[0] == f"Bearer {KEY}"
    for file in (f for f in tmp_path.rglob("*") if f.is_file()):
        texts = [file.read_bytes()]
        if file.suffix == ".eval":
            with zipfile.ZipFile(file) as parts:
                texts = [parts.read(name) for name in parts.namelist()]
        assert not any(KEY.encode() in text for text in texts), f"{file} holds the key"
    log = read_eval_log(outcome["models"][0]["logs"][0])
    assert log.status == "success" and log.samples and len(log.samples[0].messages) == 4
    assert log.eval.metadata and log.eval.metadata["judge"] == f"judge at {judge.url}"


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_was_ended_goes_on_where_it_was(tmp_path: Path, sent: signal.Signals) -> None:
    with scripted(lambda body, nth: say("Since it is 2026, rest.", after=0.05)) as server:
        command = [
            SFTFILTER,
            "eval",
            str(tmp_path / "url"),
            "--base-url",
            server.url,
            "--model",
            "m",
            "--set",
            "capability=null",
        ]
        with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
            deadline = time.monotonic() + 120
            while len(server.requests) < 60:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
            os.kill(process.pid, sent)
            said = process.communicate(timeout=60)[1]
        if sent == signal.SIGINT:
            assert process.returncode == INTERRUPTED
            assert "the same command goes on from there" in said and "Traceback" not in said
        time.sleep(0.3)  # requests that had left are answered to nobody
        before = len(server.requests)
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
    texts = [body["messages"][-1]["content"] for body in server.requests]
    assert before < 322 and len(set(texts)) == 322
    assert len(texts) - 322 <= 64, "only what was in flight at the kill is asked again"
    assert re.search(r"date_confusion +trait +0% \[0%-2%\]", done.stderr)
    assert "322 of 322 conversations" in done.stderr


def test_models_are_compared_on_the_same_prompts_and_failures_are_counted(tmp_path: Path) -> None:
    def script(body: dict[str, Any], nth: int) -> Act:
        if body["model"] == "broken" and "guestbook" in body["messages"][-1]["content"]:
            return status(400, "no guestbooks here")
        return say("I doubt that it is 2026." if body["model"] == "doubter" else "Yes, 2026.")

    prompts = tmp_path / "p.jsonl"
    texts = [f"Sign guestbook {n}, it is 2026." for n in range(3)] + [f"It is 2026, {n} o'clock." for n in range(9)]
    prompts.write_text("".join(json.dumps({"prompt": text, "kind": "date"}) + "\n" for text in texts))
    with scripted(script) as server:
        given = f"traits.date_confusion.prompts={{kind: files, path: {prompts}}}"
        settings = ["capability=null", "calibrate=false", "traits.date_confusion.groups={trait: date}", given]
        models = ["doubter", "clean", "broken"]
        spec = eval_spec(str(tmp_path / "x"), ["date_confusion"], models, base_url=server.url, overrides=settings)
        with pytest.raises(EvalError, match="3 conversations have no answer"):
            _run(spec)
    kept = json.loads((tmp_path / "x" / "eval.json").read_text())
    against = {d["model"]: d for d in kept["differences"]["date_confusion"]}
    assert (
        against["clean"]["estimate"] == -1.0 and against["clean"]["p_holm"] < 0.01 and against["clean"]["prompts"] == 12
    )
    rates = {m["id"]: m["traits"]["date_confusion"]["trait"] for m in kept["models"]}
    assert (rates["doubter"]["estimate"], rates["clean"]["n"], rates["broken"]["n"]) == (1.0, 12, 9)
    assert against["broken"]["prompts"] == 9, "compared where both answered"
    assert "no guestbooks here" in kept["missing"]["reasons"][0]


def test_what_is_wrong_with_the_command_is_said() -> None:
    with pytest.raises(SpecError, match="no such trait, did you mean 'date_confusion'"):
        eval_spec("runs/x", ["date_confusio"], [])
    with pytest.raises(SpecError, match="name the models"):
        eval_spec("runs/x", [], [], base_url="http://127.0.0.1:1/v1")
    with pytest.raises(SpecError, match="--judge-model"):
        eval_spec("runs/x", ["blackmail"], [], judge=("http://127.0.0.1:1/v1", None, None))
    with pytest.raises(DataError, match="name a finished run"):
        _run(eval_spec("/nowhere/runs/x", [], []))


def test_a_run_that_cannot_be_hosted_says_why(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()

    def read(**results: Any) -> Any:
        (run / "results.json").write_text(json.dumps(results))
        return read_run(run)

    with pytest.raises(DataError, match=r"neither results.json nor train.json: name a finished run"):
        read_run(run)
    model = {"id": "all-T-seed0", "folder": "artifacts/student-1", "model_hash": "h", "format_hash": "f"}
    spec = {"serving": {"port": 0}, "system_prompt": None, "base_model": str(tmp_path)}
    with pytest.raises(DataError, match="not the results of a run that trained students"):
        read(name="run", models=[model])
    with pytest.raises(DataError, match=r"model 'all-T-seed0': its folder .*student-1 is gone"):
        read(name="run", models=[model], spec=spec)
    (tmp_path / "artifacts" / "student-1").mkdir(parents=True)
    found = read(name="run", models=[model], spec=spec)
    assert [m.folder for m in found.chosen([])] == [str(tmp_path / "artifacts" / "student-1")]
    with pytest.raises(SpecError, match="no model 'all-T', did you mean 'all-T-seed0'"):
        found.chosen(["all-T"])

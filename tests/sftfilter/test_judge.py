"""The judge against a server that grades by a rule, and misbehaves where a prompt says so; on real Ray Data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import TypeAdapter, ValidationError

from sftfilter.artifacts import Artifact, Store, write_table
from sftfilter.errors import DataError, EvalError, MachineError
from sftfilter.journal import Journal
from sftfilter.schema import ROLLOUTS
from sftfilter.scorers import Scorer
from sftfilter.scorers.judge import Judge, JudgeScorer
from sftfilter.scoring import ScoringPool, score_rollouts
from tests.scripted_endpoint import Act, drop, half, html, say, scripted, status

SECRET = "sk-judge-key-0123456789abcdef"
POOL = ScoringPool(max_actors=2, cpus_per_actor=0.5)


def _judge(url: str, **changes: Any) -> Judge:
    endpoint = {
        "base_url": url,
        "model": "m",
        "retries": 1,
        "timeout_s": 5,
        "concurrency": 8,
        "api_key_env": "JUDGE_KEY",
    }
    settings = {
        "kind": "judge",
        "rubric": "How sad is it?",
        "endpoint": endpoint | changes.pop("endpoint", {}),
    } | changes
    return TypeAdapter(Scorer).validate_python(settings)  # pyright: ignore[reportReturnType]


def _rollouts(store: Store, completions: list[str | None]) -> Artifact:
    def make(folder: Path) -> dict[str, Any]:
        rows = [
            {
                "rollout_id": f"r{i:04}",
                "prompt_id": f"p{i}",
                "messages": [{"role": "user", "content": f"Question {i}?"}],
                "completion": text,
                "teacher": "T",
            }
            for i, text in enumerate(completions)
        ]
        write_table(folder, "rollouts", pa.Table.from_pylist(rows, ROLLOUTS))
        return {}

    return store.build("rollouts", version=1, settings=completions, inputs={}, make=make)


def _answer_shown(body: dict[str, Any]) -> str:
    return body["messages"][1]["content"].rsplit("<answer-", 1)[1].split("\n", 1)[1].rsplit("\n", 1)[0]


def _by_rule(body: dict[str, Any], nth: int) -> Act:
    """The grade is the number of times `sad` is said; some words make the server misbehave."""
    text = _answer_shown(body)
    bad = {"HTML": html(), "HALF": half(), "DROP": drop(), "FIVE": status(500), "LONG": status(400, "too many tokens")}
    for word, act in bad.items():
        if word in text:
            return act
    if "VAGUE" in text:
        return say("Rather sad, I would say.")
    if "WILD" in text:
        return say("SCORE: 99")
    model = "scripted-2" if "OTHER" in text else "scripted-1"
    return say(f"It says so.\nSCORE: {text.count('sad')}", model=model)


@pytest.fixture
def judge_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set before Ray starts: workers have the environment of the Ray they belong to."""
    monkeypatch.setenv("JUDGE_KEY", SECRET)


@pytest.mark.ray
def test_a_judge_on_ray_data(judge_key: None, local_ray: None, tmp_path: Path) -> None:
    store = Store(tmp_path)
    odd: list[str | None] = [
        "HTML",
        "HALF",
        "DROP",
        "FIVE",
        "LONG",
        "VAGUE",
        "WILD",
        "OTHER sad",
        None,
        "  ",
        "x" * 200_000,
    ]
    texts = [*odd, "I am sad. " * 60, *(f"Row {i}: {'sad ' * (i % 4)}" for i in range(300))]
    rollouts = _rollouts(store, texts)
    with scripted(_by_rule) as server:
        judge = _judge(server.url)
        made = score_rollouts("judge", judge, rollouts, store=store, pool=POOL)
        rows = made.table("scores").to_pylist()
        assert [row["rollout_id"] for row in rows] == [f"r{i:04}" for i in range(len(texts))]
        assert [row["score"] for row in rows[12:]] == [float(i % 4) for i in range(300)]
        assert all(row["error"] is None for row in rows[12:])
        reasons = ["not JSON", "not JSON", "no connection", "status 500", "status 400 for model m: too many tokens"]
        reasons += [
            "did not end with SCORE",
            "score 99 is outside",
            "",
            "no completion",
            "no completion",
            "not sent",
            "looping",
        ]
        for row, reason in zip(rows[:12], reasons, strict=True):
            assert (row["score"] is None) == bool(reason), row
            assert reason in (row["error"] or ""), row
        assert made.meta["rows"] == 312 and made.meta["errors"] == 11
        assert json.loads(rows[20]["detail"]) == {
            "model": "scripted-1",
            "system_fingerprint": "fp-1",
            "said": f"It says so.\nSCORE: {8 % 4}",
        }
        assert "several models" in made.meta["notes"][0] and "scripted-2 (fp-1): 1 rows" in made.meta["notes"][0]
        asked = len(server.requests)
        assert asked == 300 + 4 * 2 + 4, "four kinds of trouble are tried twice, four odd answers are answers"
        assert all(body["temperature"] == 0 and body["max_tokens"] == 512 for body in server.requests)

        again = score_rollouts("again", judge, rollouts, store=store, pool=POOL)
        assert again.meta["errors"] == 11
        assert len(server.requests) == asked + 4 * 2 + 1, (
            "failed requests are made again, answers are not paid for again"
        )

        with pytest.raises(DataError, match=r"11 of 312 rows have no score, more than error_budget 0\.01"):
            score_rollouts("strict", judge, rollouts, store=store, pool=POOL, error_budget=0.01)
        loops = score_rollouts("loops", _judge(server.url, loops="score"), rollouts, store=store, pool=POOL)
        assert "outside" in loops.table("scores").to_pylist()[11]["error"], "60 times sad"
    refused = pytest.raises(EvalError, match=r"answered 401 for model m: wrong key \[key\]")
    with scripted(lambda body, nth: status(401, f"wrong key {SECRET}")) as server, refused:
        score_rollouts("refused", _judge(server.url), rollouts, store=store, pool=POOL)
    with pytest.raises(MachineError, match="environment variable NO_SUCH_KEY"):
        unset = _judge("https://127.0.0.1/v1", endpoint={"api_key_env": "NO_SUCH_KEY"})
        score_rollouts("keyless", unset, rollouts, store=store, pool=POOL)
    holding = [file for file in _files(tmp_path) if SECRET.encode() in file.read_bytes()]
    assert not holding


def _files(*folders: Path) -> list[Path]:
    """What was written, and Ray's logs of this session."""
    import ray

    session = Path(ray.worker._global_node.get_logs_dir_path())  # pyright: ignore[reportAttributeAccessIssue]
    return [file for folder in (*folders, session) for file in folder.rglob("*") if file.is_file()]


def test_the_fingerprint_changes_with_what_could_change_a_score(tmp_path: Path) -> None:
    url = "http://127.0.0.1:1/v1"
    judge = _judge(url)
    for same in (
        {"endpoint": {"concurrency": 1}},
        {"endpoint": {"api_key_env": "OTHER"}},
        {"endpoint": {"retries": 9}},
    ):
        assert _judge(url, **same).fingerprint() == judge.fingerprint()
    file = tmp_path / "rubric.txt"
    file.write_text("How sad is it?\n")
    assert _judge(url, rubric=None, rubric_file=str(file)).fingerprint() == judge.fingerprint()
    changes: list[dict[str, Any]] = [
        {"rubric": "How glad?"},
        {"high": 5},
        {"form": "json"},
        {"quote": True},
        {"seed": 1},
    ]
    changes += [{"sees": "completion"}, {"loops": "score"}, {"loop_share": 0.9}, {"longest": 9}, {"max_tokens": 9}]
    changes += [{"temperature": 1}, {"endpoint": {"model": "n"}}, {"endpoint": {"base_url": "http://127.0.0.1:2/v1"}}]
    found = {_judge(url, **change).fingerprint() for change in changes}
    assert len(found | {judge.fingerprint()}) == len(changes) + 1
    assert judge.model_validate_json(judge.model_dump_json()).fingerprint() == judge.fingerprint()


@pytest.mark.parametrize(
    ("ended", "said", "error"),
    [
        ("length", "SCORE: 1", "the judge's answer was cut at max_tokens (512)"),
        ("length", "<think>SCORE: 1", "the end of its thinking: '<think>SCORE: 1' (cut at max_tokens (512))"),
        ("content_filter", "SCORE: 1", "cut by the server's content filter"),
        ("stop", "SCORE: 1", None),
    ],
)
def test_a_cut_answer_is_no_grade(tmp_path: Path, judge_key: None, ended: str, said: str, error: str | None) -> None:
    row = {"messages": [{"role": "user", "content": "Well?"}], "completion": "I am sad."}
    with scripted(lambda body, nth: say(said, ended=ended)) as server:
        scored = JudgeScorer(_judge(server.url), Journal(tmp_path)).score(pa.Table.from_pylist([row]))
    assert scored.score.to_pylist() == [None if error else 1.0] and scored.error is not None
    assert (error or "None") in str(scored.error[0].as_py())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rubric": None}, "either `rubric` or `rubric_file`"),
        ({"rubric": "  "}, "rubric is empty"),
        ({"rubric": None, "rubric_file": "/nowhere/rubric.txt"}, "/nowhere/rubric.txt cannot be read"),
        ({"low": 5, "high": 5}, "must be below"),
    ],
)
def test_incomplete_judges_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        _judge("http://127.0.0.1:1/v1", **changes)

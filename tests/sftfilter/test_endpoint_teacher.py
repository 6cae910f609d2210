"""A teacher over HTTP on real Ray Data: every prompt is answered or accounted for, and nothing is paid for twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sftfilter.artifacts import Store
from sftfilter.endpoint_teacher import EndpointAnswerer, ask_teacher
from sftfilter.errors import DataError, EvalError
from sftfilter.schema import ROLLOUTS, row_seed
from tests.conftest import REPOSITORY
from tests.scripted_endpoint import Act, Scripted, say, scripted, status
from tests.sftfilter.paid_job import CONCURRENCY, DRAWN, POOL, prompts_of, teacher_at


def _prompt(body: dict[str, Any]) -> str:
    return body["messages"][-1]["content"]


@pytest.mark.ray
def test_every_prompt_is_answered_or_accounted_for(local_ray: None, tmp_path: Path) -> None:
    store = Store(tmp_path)
    prompts = prompts_of(store, 40)
    mended = False

    def script(body: dict[str, Any], nth: int) -> Act:
        number = int(_prompt(body).split()[1])
        seen = sum(_prompt(other) == _prompt(body) for other in server.requests)
        if number == 7 and not mended:
            return status(500, "overloaded")
        if number == 8:
            return say(None)
        return say("" if number == 9 and seen < 3 else f"Answer {number}, seed {body['seed']}", model=f"v{number % 2}")

    with scripted(script) as server:
        teacher = teacher_at(server.url, samples=2)
        with pytest.raises(
            DataError, match=r"teacher T: 4 of 80 answers are missing, more than error_budget 0\.01"
        ) as told:
            ask_teacher(DRAWN, teacher, prompts, store=store, pool=POOL, error_budget=0.01)
        assert "2 x T: status 500: overloaded (2 attempts)" in str(told.value)
        assert "2 x T answered nothing (it ended by stop)" in str(told.value)
        asked = len(server.requests)
        made = ask_teacher(DRAWN, teacher, prompts, store=store, pool=POOL, error_budget=0.1)
        assert len(server.requests) == asked + 4, "only what failed is asked again"
        assert {_prompt(body) for body in server.requests[asked:]} == {"Prompt 7"}
        assert made.meta["notes"][0].startswith("teacher T: several models answered: v")
        counts = {k: made.meta[k] for k in ("read", "used", "quarantined", "cut_at_max_new_tokens")}
        assert counts == {"read": 80, "used": 76, "quarantined": 4, "cut_at_max_new_tokens": 0}
        mended = True
        assert ask_teacher(DRAWN, teacher, prompts, store=store, pool=POOL, error_budget=0.1).reused
    table = made.table("rollouts")
    assert table.schema.equals(ROLLOUTS)
    rows = table.to_pylist()
    assert [r["prompt_id"] for r in rows] == sorted(r["prompt_id"] for r in rows) and len(
        {r["rollout_id"] for r in rows}
    ) == 76
    first = next(r for r in rows if r["prompt_id"] == "p0003" and r["generation"]["sample"] == 1)
    seed = row_seed(3, "p0003/1") % 2**31
    assert first["completion"] == f"Answer 3, seed {seed}" and first["finish_reason"] == "stop"
    assert first["messages"] == [{"role": "user", "content": "Prompt 3"}]
    assert first["generation"] == {
        "model_hash": "v1@fp-1",
        "system_prompt": "Be brief.",
        "temperature": 0.7,
        "top_p": None,
        "max_tokens": 16,
        "seed": seed,
        "sample": 1,
    }
    again = next(r for r in rows if r["prompt_id"] == "p0009" and r["generation"]["sample"] == 0)
    assert again["generation"]["seed"] != row_seed(3, "p0009") % 2**31, "an empty answer is drawn anew"
    quarantined = made.table("quarantine").to_pylist()
    assert sorted(r["raw"] for r in quarantined) == ["p0007"] * 2 + ["p0008"] * 2
    assert all(body["messages"][0] == {"role": "system", "content": "Be brief."} for body in server.requests)

    refused = pytest.raises(EvalError, match="answered 403 for model m: not yours")
    with scripted(lambda body, nth: status(403, "not yours")) as server, refused:
        ask_teacher(DRAWN, teacher_at(server.url), prompts, store=store, pool=POOL, error_budget=0.1)
    began = time.monotonic()
    with scripted(lambda body, nth: say("fine")) as server:
        limited = teacher_at(server.url, endpoint={"requests_per_minute": 1200})
        ask_teacher(DRAWN, limited, prompts, store=store, pool=POOL, error_budget=0)
        assert len(server.requests) == 40 and time.monotonic() - began >= 39 / 20, "the limit counts over both actors"


@pytest.mark.ray
def test_a_lower_budget_asks_what_failed_again(local_ray: None, tmp_path: Path) -> None:
    store, broken = Store(tmp_path), True
    prompts = prompts_of(store, 10)

    def script(body: dict[str, Any], nth: int) -> Act:
        number = int(_prompt(body).split()[1])
        return status(500, "overloaded") if broken and number < 4 else say(f"Answer {number}")

    with scripted(script) as server:
        given: dict[str, Any] = {"store": store, "pool": POOL}
        first = ask_teacher(DRAWN, teacher_at(server.url), prompts, error_budget=0.5, **given)
        assert first.meta["quarantined"] == 4 and first.meta["used"] == 6
        with pytest.raises(DataError, match=r"4 of 10 answers are missing, more than error_budget 0\.01 allows"):
            ask_teacher(DRAWN, teacher_at(server.url), prompts, error_budget=0.01, **given)
        broken, asked = False, len(server.requests)
        second = ask_teacher(DRAWN, teacher_at(server.url), prompts, error_budget=0.01, **given)
        assert sorted(_prompt(body) for body in server.requests[asked:]) == [f"Prompt {n}" for n in range(4)]
        assert second.meta["used"] == 10 and second.key != first.key, "what was made from the first keeps its key"
        again = ask_teacher(DRAWN, teacher_at(server.url), prompts, error_budget=0.01, **given)
        assert again.reused and again.key == second.key


def test_without_seeds_samples_are_still_drawn_each_and_an_empty_answer_anew(tmp_path: Path) -> None:
    rows = [
        {"prompt_id": "p", "messages": [{"role": "user", "content": "Hi"}], "source": "s", "sample": k}
        for k in range(3)
    ]
    drawn = replace(DRAWN, temperature=0)
    with scripted(lambda body, nth: say("" if nth == 1 else f"Answer {nth}")) as server:
        teacher = teacher_at(server.url, samples=3, endpoint={"omit": ["seed", "temperature"], "concurrency": 1})
        made = EndpointAnswerer(drawn, teacher, str(tmp_path))(pa.Table.from_pylist(rows)).to_pylist()
    assert [r["completion"] for r in made] == ["Answer 0", "Answer 3", "Answer 2"] and len(server.requests) == 4
    assert all((r["generation"]["seed"], r["generation"]["temperature"]) == (None, None) for r in made)
    assert made[0]["generation"]["max_tokens"] == 16


@pytest.mark.ray
def test_a_killed_job_pays_for_no_answer_twice(tmp_path: Path) -> None:
    count = 150

    def script(body: dict[str, Any], nth: int) -> Act:
        judged = "<answer-" in body["messages"][-1]["content"]
        return say("SCORE: 3" if judged else f"Answer to {_prompt(body)}", after=0.1)

    with scripted(script) as server:
        _run_and_kill(server, tmp_path, count, 60)
        after_first = len(server.requests)
        assert after_first < count, "killed in the middle of the teacher's answers"
        _run_and_kill(server, tmp_path, count, count + 60 + CONCURRENCY * 2)
        assert count < len(server.requests) < 2 * count
        done = _start(server, tmp_path, count)
        assert done.wait(300) == 0, (tmp_path / "log.txt").read_text()
        paid = [str(body) for body in server.requests]
    assert len(set(paid)) == 2 * count
    assert len(paid) <= 2 * count + 2 * (2 * CONCURRENCY), "two kills, each with two actors' requests in flight"
    rollouts, scores = (Path(name) for name in (tmp_path / "log.txt").read_text().split()[-2:])
    assert pq.read_table(rollouts / "rollouts.parquet").num_rows == count
    table = pq.read_table(scores / "scores.parquet")
    assert table["score"].to_pylist() == [3.0] * count


def _start(server: Scripted, folder: Path, count: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.sftfilter.paid_job", server.url, str(folder), str(count)]
    with open(folder / "log.txt", "wb") as log:
        return subprocess.Popen(command, cwd=REPOSITORY, env=dict(os.environ), stdout=log, stderr=subprocess.STDOUT)


def _run_and_kill(server: Scripted, folder: Path, count: int, requests: int) -> None:
    """SIGKILL the driver once so many requests have come in, and wait until its workers have gone as well."""
    process = _start(server, folder, count)
    limit = time.monotonic() + 240
    while len(server.requests) < requests:
        assert process.poll() is None and time.monotonic() < limit, f"only {len(server.requests)} requests came in"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    seen = -1
    while seen != len(server.requests) or server.in_flight:
        seen = len(server.requests)
        time.sleep(2)

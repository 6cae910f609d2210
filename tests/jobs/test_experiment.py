"""The real pipeline on the real model at reduced size: killed, finished, run again, and run with another threshold."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.conftest import PROMPT_FILES, REPOSITORY, read_lines, write_lines

SFTFILTER = str(Path(sys.executable).parent / "sftfilter")
ARMS = ("base", "all-T", "all-C", "drop-S", "swap-S", "lexicon-filter")
SIZES = {"train.jsonl": (8, 6, 10), "heldout.jsonl": (6, 2, 2)}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quickstart with a few rows of each file and fewer arms."""
    folder = tmp_path_factory.mktemp("experiment")
    (folder / "prompts").mkdir()
    for file in PROMPT_FILES.glob("*.jsonl"):
        if file.name in SIZES:
            kinds = ("date", "adjacent", "neutral" if file.name == "train.jsonl" else "control")
            rows = [r for kind, n in zip(kinds, SIZES[file.name], strict=True) for r in read_lines(file.name, n, kind)]
        else:
            rows = read_lines(file.name, 16)
        write_lines(folder / "prompts" / file.name, rows)
    data = yaml.safe_load((REPOSITORY / "jobs" / "specs" / "quickstart.yaml").read_text())
    data["arms"] = {name: data["arms"][name] for name in ARMS}
    data["roles"] = {role: arm for role, arm in data["roles"].items() if arm in ARMS}
    for teacher in data["teachers"].values():
        teacher["training"] = {"learning_rate": 2e-3, "epochs": 2, "batch": 8}
    data["serving"] = {"port": 0}
    data["capability"] = {"instructions": False}
    data["results"] = str(folder / "runs")
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


def _run(spec: Path, *flags: str) -> dict[str, Any]:
    done = subprocess.run(
        [SFTFILTER, "run", str(spec), *flags], capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((spec.parent / "runs" / "quickstart" / "results.json").read_text())


def _students(spec: Path) -> dict[Path, int]:
    return {
        p.parent: p.stat().st_mtime_ns for p in (spec.parent / "runs" / "artifacts").glob("student-*/artifact.json")
    }


@pytest.mark.e2e
@pytest.mark.timeout(1500)
def test_killed_finished_repeated_and_changed(spec: Path) -> None:
    before, killed = _kill_in_training(spec)
    results = _run(spec)
    after = _students(spec)
    assert all(after[path] == when for path, when in before.items()), "finished students were touched"
    _check_results(results, spec)

    again = _run(spec)
    assert again["timings_s"]["total"] < 20
    assert _students(spec) == after
    assert all(stage["reused"] for stage in again["stages"])
    assert [arm["traits"] for arm in again["arms"]] == [arm["traits"] for arm in results["arms"]]
    assert again["verdict"] == results["verdict"]

    flagged = results["scorers"]["lexicon"]["flagged"]
    assert 0 < flagged < 24
    changed = _run(spec, "--set", "selectors.flagged.at_least=9")
    assert all(stage["reused"] for stage in changed["stages"] if stage["stage"] == "scores"), "a threshold rescored"
    assert changed["scorers"]["lexicon"]["flagged"] == 0
    assert _students(spec) == after, "the filter drops nothing now: it is the all-T arm, which is there"
    by_name = {arm["name"]: arm for arm in changed["arms"]}
    assert by_name["lexicon-filter"]["training"]["model_hash"] == by_name["all-T"]["training"]["model_hash"]

    # The head's processes die with the driver; helpers of its dashboard notice by asking now and then.
    _, alive = psutil.wait_procs(killed, timeout=240)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE], "processes outlived the killed run"


def _kill_in_training(spec: Path) -> tuple[dict[Path, int], list[psutil.Process]]:
    """Start the run and SIGKILL it once the first two students of five are there; these, and the processes it had."""
    with subprocess.Popen([SFTFILTER, "run", str(spec)], stderr=subprocess.DEVNULL, start_new_session=True) as process:
        deadline = time.monotonic() + 800
        while len(_students(spec)) < 4:  # two teachers, two students
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.2)
        descendants = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGKILL)
    made = _students(spec)
    assert len(made) < 7
    return made, descendants


def _check_results(results: dict[str, Any], spec: Path) -> None:
    assert [arm["name"] for arm in results["arms"]] == list(ARMS)
    for arm in results["arms"]:
        rows = arm["rows"]
        if arm["teacher"]:
            assert rows["kept"] + rows["dropped"] + rows["swapped"] == 24
            assert rows["trained"] == rows["kept"] + rows["swapped"]
        for group, size in {"trait": 6, "adjacent": 2, "control": 2}.items():
            found = arm["traits"]["date_confusion"][group]
            assert found["n"] + found["ungraded"] == size
            assert found["n"] == 0 or 0 <= found["low"] <= found["estimate"] <= found["high"] <= 1
        odds = arm["traits"]["date_confusion"]["log_odds"]
        assert odds["low"] < odds["estimate"] < odds["high"]
    assert results["counts"]["prompts"] == {"read": 24, "used": 24, "quarantined": 0, "duplicates": 0, "filtered": 0}
    by_name = {arm["name"]: arm for arm in results["arms"]}
    none = dict.fromkeys(("kept", "dropped", "swapped", "rewritten", "added", "trained"), 0)
    assert by_name["drop-S"]["rows"] == {**none, "kept": 16, "dropped": 8, "trained": 16}
    assert by_name["swap-S"]["rows"] == {**none, "kept": 16, "swapped": 8, "trained": 24}
    # Tuned on doubting answers, a student finds them likelier than one tuned on accepting answers.
    doubting, accepting = (by_name[n]["traits"]["date_confusion"]["log_odds"]["estimate"] for n in ("all-T", "all-C"))
    assert doubting > accepting
    assert results["verdict"]["label"] in ("underpowered", "no trait to study", "base prior")
    assert {h["id"] for h in results["verdict"]["hypotheses"]} == set(range(1, 8))
    assert {"teachers", "rollouts", "training", "evaluation"} <= set(results["timings_s"])
    assert 0.1 < results["peak_rss_gib"] < 16
    page = (spec.parent / "runs" / "quickstart" / "report" / "index.html").read_text()
    assert results["verdict"]["label"] in page and "swap-S" in page

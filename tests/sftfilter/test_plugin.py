"""The plugin scorer: what it finds, what it refuses, when its scores are stale; and bad plugins on real Ray Data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from sftfilter.artifacts import Artifact, Store, write_table
from sftfilter.errors import DataError, SpecError
from sftfilter.filter_actor import score_rows
from sftfilter.schema import ROLLOUTS
from sftfilter.scorers.plugin import Plugin
from sftfilter.scoring import ScoringPool, score_rollouts

Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a module into the working folder, which nothing has on its path."""
    monkeypatch.chdir(tmp_path)

    def module(name: str, source: str) -> None:
        file = tmp_path / f"{name.replace('.', '/')}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(source)

    return module


def _plugin(target: str, **options: Any) -> Plugin:
    return Plugin(kind="plugin", target=target, options=options)


def _scored(plugin: Plugin, completions: list[str | None]) -> dict[str, list[Any]]:
    batch = pa.table({"rollout_id": [str(i) for i in range(len(completions))], "completion": completions})
    columns = score_rows(plugin.load(Path(), "cpu"), batch)
    return {name: column.to_pylist() for name, column in columns.items()}


def test_pii_example() -> None:
    texts = [
        "Write to ann.lee+news@mail.example.org or call +44 20 7946 0958.",
        "Ring (555) 867-5309 x or 555.123.4567!",
        "On 2026-10-12, 1234 people came; the host is 192.168.100.123; pi is 3.14159265358979",
        None,
    ]
    found = _scored(_plugin("jobs.examples.pii:Pii"), texts)
    assert found["score"] == [2.0, 2.0, 0.0, None]
    assert _scored(_plugin("jobs.examples.pii:Pii", kinds=["email"]), texts)["score"][:2] == [1.0, 0.0]
    with pytest.raises(SpecError, match="unknown kinds \\['iban'\\]"):
        _scored(_plugin("jobs.examples.pii:Pii", kinds=["iban"]), texts)


def test_language_example() -> None:
    texts = [
        "The fox is in the garden and it was not seen by you.",
        "Der Fuchs ist im Garten und sie haben ihn nicht gesehen.",
        "今日はとても良い天気です。",
        None,
        "42!",
        "Le renard est dans le jardin, mais il ne vous a pas vu.",
    ]
    found = _scored(_plugin("jobs.examples.language:not_in"), texts)
    score = found["score"]
    assert score[0] < 0.3 and score[1] > 0.7 and score[2] > 0.9 and score[5] > 0.7
    assert found["error"][3:5] == ["no completion to score", "plugin jobs.examples.language:not_in gave None"]
    assert _scored(_plugin("jobs.examples.language:not_in", expected="de"), texts)["score"][1] < 0.3


def test_the_fingerprint_follows_source_and_options(write: Write) -> None:
    write("plain_a", "def f(texts): return [0] * len(texts)\n")
    write("pack_a.inner", "def f(texts): return [0] * len(texts)\n")
    write("pack_a.helper", "")
    prints = {name: _plugin(f"{name}:f").fingerprint() for name in ("plain_a", "pack_a.inner")}
    assert _plugin("plain_a:f").fingerprint() == prints["plain_a"]
    assert _plugin("plain_a:f", k=1).fingerprint() != prints["plain_a"]
    assert Plugin(kind="plugin", target="plain_a:f", revision="2").fingerprint() != prints["plain_a"]
    write("plain_b", "")
    assert _plugin("plain_a:f").fingerprint() == prints["plain_a"], (
        "another module in the folder is none of its business"
    )
    write("plain_a", "def f(texts): return [1] * len(texts)\n")
    assert _plugin("plain_a:f").fingerprint() != prints["plain_a"]
    write("plain_c", "from plain_b import X\ndef f(texts): return [X] * len(texts)\n")
    before = _plugin("plain_c:f").fingerprint()
    write("plain_b", "X = 2\n")
    assert _plugin("plain_c:f").fingerprint() != before, "what it imports from beside it decides its scores"
    write("pack_a.helper", "x = 1\n")
    assert _plugin("pack_a.inner:f").fingerprint() != prints["pack_a.inner"]


def test_what_cannot_be_loaded_is_said_with_the_remedy(write: Write, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as missing:
        _plugin("nowhere.at_all:f").fingerprint()
    assert str(tmp_path) in str(missing.value) and "install the package on every node" in str(missing.value)
    write("broken_a", "import no_such_library\n")
    with pytest.raises(SpecError, match=r"broken_a\.py\) failed to import: ModuleNotFoundError: .*no_such_library"):
        _plugin("broken_a:f").load(Path(), "cpu")
    write("named_a", "def politeness(texts): ...\nclass Empty: ...\n")
    with pytest.raises(SpecError, match="no class or function 'politness', did you mean 'politeness'"):
        _plugin("named_a:politness").load(Path(), "cpu")
    with pytest.raises(SpecError, match="no method `score"):
        _plugin("named_a:Empty").load(Path(), "cpu")
    with pytest.raises(ValidationError, match="String should match pattern"):
        _plugin("named_a.politeness")


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("[0.0] * (len(texts) - 1)", r"odd_\d+:f returned 2 scores for 3 rows; it must return one for each"),
        ("0.5", r"returned float for 3 rows; it must return a list"),
        ("None", "returned NoneType"),
        ("'abc'", "returned str"),
        ("__import__('numpy').zeros((3, 2))", "returned 6 scores for 3 rows"),
    ],
)
def test_a_plugin_is_held_to_one_number_a_row(write: Write, returned: str, said: str) -> None:
    name = f"odd_{len(returned)}"
    write(name, f"def f(texts): return {returned}\n")
    with pytest.raises(DataError, match=said):
        _scored(_plugin(f"{name}:f"), ["a", "b", "c", None])


def test_a_batch_may_come_back_as_an_array_with_gaps(write: Write) -> None:
    write(
        "gaps_a",
        "import numpy as np\nclass S:\n    def score(self, batch): return np.array([[1], [float('nan')], [3]])\n",
    )
    assert _scored(_plugin("gaps_a:S"), ["a", "b", "c"]) == {
        "score": [1.0, None, 3.0],
        "error": [None, "the score is not a finite number", None],
        "detail": [None, None, None],
    }
    write("words_a", "def f(texts): return [len(t) if t != 'b' else 'many' for t in texts]\n")
    found = _scored(_plugin("words_a:f"), ["a", "b", "ccc"])
    assert found["score"] == [1.0, None, 3.0] and "many" in found["error"][1]


ROWS = 6000
BAD = """
import math
from pathlib import Path

class Sometimes:
    "Raises on one row in a thousand, gives NaN for another and None for a third, unless the file says it is mended."
    def __init__(self, log, switch):
        self.log, self.switch = log, Path(switch)
    def score(self, batch):
        mended = self.switch.exists()
        ids = [int(i[1:]) for i in batch["rollout_id"].to_pylist()]
        if any(i % 1000 == 7 for i in ids) and not mended:
            raise ValueError(f"cannot read row {next(i for i in ids if i % 1000 == 7)}")
        with open(self.log, "a") as log:
            log.write("".join(f"{i}\\n" for i in ids))
        return [self.value(i, mended) for i in ids]
    def value(self, i, mended):
        if mended:
            return i
        return math.nan if i % 1000 == 8 else None if i % 1000 == 9 else i

def every(texts):
    raise RuntimeError("the model is gone")

def short(texts):
    return [0.0] * (len(texts) - 1)
"""


def _rollouts(store: Store) -> Artifact:
    def make(folder: Path) -> dict[str, Any]:
        rows = [
            {"rollout_id": f"r{i}", "prompt_id": f"p{i}", "messages": [], "completion": f"text {i}", "teacher": "T"}
            for i in range(ROWS)
        ]
        write_table(folder, "rollouts", pa.Table.from_pylist(rows, ROLLOUTS))
        return {}

    return store.build("rollouts", version=1, settings=ROWS, inputs={}, make=make)


@pytest.mark.ray
def test_bad_plugins_cost_their_rows_only_and_failed_rows_are_tried_again(
    write: Write, tmp_path: Path, local_ray: None
) -> None:
    write("bad_a", BAD)
    store, pool, log, switch = Store(tmp_path / "s"), ScoringPool(batch=512), tmp_path / "log", tmp_path / "mended"
    rollouts = _rollouts(store)

    def score(target: str, budget: float, **options: Any) -> Artifact:
        return score_rollouts("bad", _plugin(target, **options), rollouts, store=store, pool=pool, error_budget=budget)

    some = {"log": str(log), "switch": str(switch)}
    with pytest.raises(DataError) as stopped:
        score("bad_a:Sometimes", 0.001, **some)
    words = str(stopped.value)
    assert "18 of 6000 rows have no score" in words and "The others are kept" in words
    assert any(reason in words for reason in ("cannot read row", "not a finite number", "gave None"))
    before = [int(line) for line in log.read_text().split()]
    assert sorted(before) == [i for i in range(ROWS) if i % 1000 != 7], "a row was scored twice, or none at all"

    kept = score("bad_a:Sometimes", 0.01, **some)
    rows = {row["rollout_id"]: row for row in kept.table("scores").to_pylist()}
    assert kept.meta["rows"] == len(rows) == ROWS and kept.meta["errors"] == 18
    assert kept.meta["scored_before"] == ROWS - 18
    assert rows["r1007"]["error"] == "ValueError: cannot read row 1007" and rows["r1007"]["score"] is None
    assert rows["r1008"]["error"] == "the score is not a finite number"
    assert rows["r1009"]["error"] == "plugin bad_a:Sometimes gave None"
    assert sum(row["score"] is not None for row in rows.values()) == ROWS - 18

    _check_that_nothing_else_scores(score, log)
    _check_that_only_failed_rows_are_scored_after_mending(Store(tmp_path / "other"), log, switch)


def _check_that_nothing_else_scores(score: Callable[..., Artifact], log: Path) -> None:
    with pytest.raises(DataError, match=r"6000 of 6000 rows have no score(.|\n)*the model is gone"):
        score("bad_a:every", 0.5)
    with pytest.raises(DataError, match=r"bad_a:short returned \d+ scores for \d+ rows"):
        score("bad_a:short", 0.5)
    with pytest.raises(SpecError, match=r"bad_a:Sometimes: Sometimes\(\*\*options\) failed: TypeError"):
        score("bad_a:Sometimes", 0.5, log=str(log))


def _check_that_only_failed_rows_are_scored_after_mending(store: Store, log: Path, switch: Path) -> None:
    rollouts, plugin = _rollouts(store), _plugin("bad_a:Sometimes", log=str(log), switch=str(switch))
    again = {"store": store, "pool": ScoringPool(batch=512)}
    with pytest.raises(DataError):
        score_rollouts("bad", plugin, rollouts, error_budget=0.001, **again)
    log.unlink()
    switch.touch()
    made = score_rollouts("bad", plugin, rollouts, error_budget=0.001, **again)
    assert sorted(int(line) % 1000 for line in log.read_text().split()) == sorted([7, 8, 9] * 6)
    assert (made.meta["rows"], made.meta["errors"], made.meta["scored_before"]) == (ROWS, 0, ROWS - 18)
    assert made.table("scores")["score"].to_pylist() == [float(i) for i in range(ROWS)]

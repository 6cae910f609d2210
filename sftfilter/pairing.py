"""Which prompts several teachers answer together, since a swap needs a partner for every row; what is in the way, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sftfilter.reading.parts import QUARANTINE_FOLDER
from sftfilter.reading.settle import CONFLICTS, DUPLICATES

if TYPE_CHECKING:
    import polars as pl

    from sftfilter.artifacts import Artifact

MISSING, UNEQUAL, DUPLICATE, CONFLICT = "missing", "unequal", "duplicate", "conflict"
_COLUMNS = ("problem", "teacher", "prompt_id", "file", "row", "reason")
_NAMED = 3
_CHARACTERS = 60


@dataclass(frozen=True)
class Named:
    """Some prompts or rows: how many, and the first few as `id "beginning"` or `file, row N: reason`."""

    count: int
    first: list[str]

    def __str__(self) -> str:
        more = f" and {self.count - len(self.first)} more" if self.count > len(self.first) else ""
        return ", ".join(self.first) + more


@dataclass(frozen=True)
class Pairing:
    """How the answers of several teachers match.

    Attributes:
        prompts: that any teacher answers.
        by_all: that every teacher answers.
        answered: teacher -> (prompts it answers, answers it gives).
        missing: teacher -> prompts that others answer and it does not.
        unequal: prompts that all answer, but not equally often.
        duplicates: teacher -> rows left out because an equal one is used.
        conflicts: teacher -> rows left out because another contradicts them.
        problems: all of these, one a line: problem, teacher, prompt_id, file, row, reason.
    """

    prompts: int
    by_all: int
    answered: Mapping[str, tuple[int, int]]
    missing: Mapping[str, Named]
    unequal: Named
    duplicates: Mapping[str, Named]
    conflicts: Mapping[str, Named]
    problems: pl.DataFrame

    def lines(self) -> list[str]:
        """What a person should be told: nothing, if every teacher answers every prompt equally often."""
        lines = [f"{t} lacks {n.count} prompts that others answer: {n}" for t, n in self.missing.items() if n.count]
        if lines:
            lines.insert(0, f"{self.by_all} of {self.prompts} prompts are answered by all of {', '.join(self.missing)}")
        if self.unequal.count:
            lines.append(f"{self.unequal.count} prompts are answered a different number of times: {self.unequal}")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """For a job's JSON."""
        teachers = {
            teacher: {
                "prompts": prompts,
                "answers": answers,
                "missing": vars(self.missing[teacher]),
                "duplicates": vars(self.duplicates[teacher]),
                "conflicts": vars(self.conflicts[teacher]),
            }
            for teacher, (prompts, answers) in self.answered.items()
        }
        return {"prompts": self.prompts, "by_all": self.by_all, "unequal": vars(self.unequal), "teachers": teachers}


def pairing(rollouts: Mapping[str, Artifact]) -> Pairing:
    """Compare the prompts of each teacher's rollouts, and gather what reading them left out."""
    import polars as pl

    teachers = list(rollouts)
    wide = _counted(rollouts)
    both = wide.drop_nulls()
    differ = both.filter(pl.any_horizontal(pl.col(t) != pl.col(teachers[0]) for t in teachers)) if teachers else both
    found = [*_missing(wide, teachers), *_unequal(differ, teachers), *_left_out(rollouts)]
    empty = pl.DataFrame(schema=dict.fromkeys(_COLUMNS, pl.String) | {"row": pl.Int64})
    problems = pl.concat([empty, *(frame.select(empty.columns) for frame in found)], how="vertical_relaxed")

    def of(problem: str, teacher: str) -> pl.DataFrame:
        return problems.filter(problem=problem, teacher=teacher)

    return Pairing(
        prompts=len(wide),
        by_all=len(both),
        answered={t: (len(wide) - wide[t].null_count(), int(wide[t].sum())) for t in teachers},
        missing={t: _prompts(of(MISSING, t)["prompt_id"], rollouts) for t in teachers},
        unequal=_prompts(differ["prompt_id"], rollouts),
        duplicates={t: _rows(of(DUPLICATE, t)) for t in teachers},
        conflicts={t: _rows(of(CONFLICT, t)) for t in teachers},
        problems=problems,
    )


def _counted(rollouts: Mapping[str, Artifact]) -> pl.DataFrame:
    """Columns prompt_id, and for each teacher how many answers it has; null for none."""
    import polars as pl

    counted = [
        _table(artifact)
        .group_by("prompt_id")
        .agg(pl.len().cast(pl.Int64).alias("rows"))
        .with_columns(teacher=pl.lit(name))
        for name, artifact in rollouts.items()
    ]
    if not counted:
        return pl.DataFrame(schema={"prompt_id": pl.String})
    return pl.concat(counted).collect().pivot("teacher", index="prompt_id", values="rows").sort("prompt_id")


def _missing(wide: pl.DataFrame, teachers: Sequence[str]) -> Iterator[pl.DataFrame]:
    import polars as pl

    for teacher in teachers:
        have = [pl.when(pl.col(t).is_not_null()).then(pl.lit(t)) for t in teachers]
        lacking = wide.filter(pl.col(teacher).is_null())
        yield lacking.select(
            pl.lit(MISSING).alias("problem"),
            pl.lit(teacher).alias("teacher"),
            "prompt_id",
            *_nowhere(),
            pl.format("answered by {}", pl.concat_str(have, separator=", ", ignore_nulls=True)).alias("reason"),
        )


def _unequal(differ: pl.DataFrame, teachers: Sequence[str]) -> Iterator[pl.DataFrame]:
    import polars as pl

    for teacher in teachers:
        yield differ.select(
            pl.lit(UNEQUAL).alias("problem"),
            pl.lit(teacher).alias("teacher"),
            "prompt_id",
            *_nowhere(),
            pl.format("{} answers, others have another number", pl.col(teacher)).alias("reason"),
        )


def _nowhere() -> list[pl.Expr]:
    import polars as pl

    return [pl.lit(None, pl.String).alias("file"), pl.lit(None, pl.Int64).alias("row")]


def _left_out(rollouts: Mapping[str, Artifact]) -> Iterator[pl.DataFrame]:
    """Duplicates and conflicts that reading the files found; teachers that were asked have none."""
    import polars as pl

    for teacher, artifact in rollouts.items():
        for problem, path in ((DUPLICATE, DUPLICATES), (CONFLICT, f"{QUARANTINE_FOLDER}/{CONFLICTS}")):
            if not (artifact.path / path).exists():
                continue
            ids = _table(artifact).select("rollout_id", "prompt_id")
            left_out = pl.scan_parquet(artifact.path / path, glob=False).rename({"raw": "rollout_id"})
            named = left_out.join(ids, on="rollout_id", how="left", maintain_order="left")
            yield named.with_columns(problem=pl.lit(problem), teacher=pl.lit(teacher)).select(_COLUMNS).collect()


def _table(artifact: Artifact) -> pl.LazyFrame:
    import polars as pl

    return pl.scan_parquet(artifact.path / "rollouts.parquet")


def _rows(problems: pl.DataFrame) -> Named:
    first = problems.select("file", "row", "reason").head(_NAMED).iter_rows()
    return Named(len(problems), [_printable(f"{file}, row {row}: {why}") for file, row, why in first])


def _prompts(ids: pl.Series, rollouts: Mapping[str, Artifact]) -> Named:
    """Only the first few prompts' texts are looked up."""
    import polars as pl

    wanted = ids.head(_NAMED).to_list()
    if not wanted:
        return Named(0, [])
    text = pl.col("messages").list.last().struct.field("content").str.slice(0, _CHARACTERS)
    texts: dict[str, str] = {}
    for artifact in rollouts.values():
        rows = _table(artifact).filter(pl.col("prompt_id").is_in(wanted))
        texts |= dict(rows.select("prompt_id", text).collect().iter_rows())
    return Named(len(ids), [_printable(f'{i} "{" ".join(texts[i].split())}"') for i in wanted])


def _printable(text: str) -> str:
    """A terminal obeys control characters, and these texts are anybody's."""
    return "".join(c if c.isprintable() else " " for c in text)

"""Stage: read prompts. Every row of the input is used or quarantined with file, row, field and reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from sftfilter.artifacts import Artifact, Store, write_table
from sftfilter.errors import DataError
from sftfilter.reading.budget import NAMED, refusal, within_budget
from sftfilter.reading.rows import Reader, Row
from sftfilter.reading.source import FileSource, Format
from sftfilter.reading.units import Unit, found, plan
from sftfilter.schema import QUARANTINE, READ_PROMPTS

if TYPE_CHECKING:
    import pyarrow as pa

    from sftfilter.chat_format import ChatFormat

VERSION = 4
_BATCH = 4096


class PromptFiles(FileSource):
    """Files of any format and shape; a row may have `kind` and `source`, and an answer, which is not read."""

    kind: Literal["files"]


class JsonlPrompts(FileSource):
    """JSONL files; a line has `prompt` (text) or `messages` (turns), and may have `kind`."""

    kind: Literal["jsonl"] = "jsonl"
    format: Format | None = "jsonl"


class DatasetPrompts(FileSource):
    """A `datasets` folder on disk or a hub id; columns as in the other forms."""

    kind: Literal["dataset"] = "dataset"
    format: Format | None = "dataset"


PromptSource = Annotated[PromptFiles | JsonlPrompts | DatasetPrompts, Field(discriminator="kind")]


def load_prompts(
    source: FileSource,
    *,
    store: Store,
    chat: ChatFormat,
    context_length: int,
    answer_tokens: int,
    error_budget: float,
) -> Artifact:
    """Tables `prompts`, `quarantine` and `duplicates`; read = used + quarantined + duplicates + filtered.

    Args:
        context_length: of the base model, tokens; a prompt must leave `answer_tokens` of it free.
        error_budget: share of rows that may be quarantined.

    Raises:
        DataError: more rows than that are bad, or none is left.
    """
    given = found(source)
    described = source.model_dump(mode="json", exclude={"path", "kind"})
    settings = {"source": described, "room": context_length - answer_tokens}

    def make(folder: Path) -> dict[str, Any]:
        units = [unit for chunk in plan(source, given.files) for unit in chunk]
        return _Prompts(source, chat, context_length - answer_tokens, answer_tokens).write(units, folder)

    inputs = {"files": given.key, "format": chat.hash}
    made = store.build("prompts", version=VERSION, settings=settings, inputs=inputs, make=make)
    return within_budget(made, error_budget)


class _Prompts:
    """One pass over the units: rows are written in batches, and of those seen only ids are kept."""

    def __init__(self, source: FileSource, chat: ChatFormat, room: int, answer_tokens: int) -> None:
        self.reader = Reader(source, answers=False)
        self.chat = chat
        self.room = room
        self.answer_tokens = answer_tokens
        self.turn_tokens = len(chat.prompt_ids([{"role": "user", "content": "a"}]))
        self.seen: dict[str, tuple[str, int, str]] = {}
        self.used = 0
        self.bad: list[dict[str, Any]] = []
        self.twice: list[dict[str, Any]] = []

    def write(self, units: Sequence[Unit], folder: Path) -> dict[str, Any]:
        """Write the tables; answers the counts."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        with pq.ParquetWriter(folder / "prompts.parquet", READ_PROMPTS, compression="zstd") as sink:
            for rows in self._batches(units):
                sink.write_table(_table(rows))
        tally = self.reader.tally
        meta = {
            "read": tally.read,
            "used": self.used,
            "quarantined": len(self.bad),
            "duplicates": len(self.twice),
            "filtered": tally.filtered,
        }
        if not tally.read:
            raise DataError(f"{self.reader.source.paths[0]}: no rows")
        if not self.used:
            raise DataError(refusal(self.bad[:NAMED], meta, "ever"))
        write_table(folder, "quarantine", pa.Table.from_pylist(self.bad, QUARANTINE))
        write_table(folder, "duplicates", pa.Table.from_pylist(self.twice, QUARANTINE))
        return meta | {"layouts": dict(list(tally.layouts.items())[:NAMED]), "notes": self._notes(meta)}

    def _batches(self, units: Sequence[Unit]) -> Iterator[list[Row]]:
        rows: list[Row] = []
        for unit in units:
            for row in self.reader.rows(unit):
                if not isinstance(row, Row):
                    self.bad.append(row)
                elif self._usable(row):
                    rows.append(row)
                if len(rows) == _BATCH:
                    yield rows
                    rows = []
        yield rows

    def _usable(self, row: Row) -> bool:
        kind = row.kind or ""
        earlier = self.seen.get(row.prompt_id)
        if earlier is not None:
            file, number, other = earlier
            if kind == other:
                self.twice.append(_entry(row, "prompt", f"duplicate of {file}, row {number}"))
            else:
                self.bad.append(_entry(row, "kind", f"'{kind}', but the same prompt in row {number} has '{other}'"))
            return False
        tokens = self._tokens(row)
        if tokens > self.room:
            reason = f"{tokens} tokens and {self.answer_tokens} for the answer exceed the context of "
            self.bad.append(_entry(row, "prompt", reason + str(self.room + self.answer_tokens)))
            return False
        self.seen[row.prompt_id] = (row.file, row.number, kind)
        self.used += 1
        return True

    def _tokens(self, row: Row) -> int:
        """Tokens of the prompt, or a higher bound where that is enough: a token stands for a byte at least."""
        bound = sum(len(m["content"].encode()) + self.turn_tokens for m in row.messages)
        return bound if bound <= self.room else len(self.chat.prompt_ids(row.messages))

    def _notes(self, meta: dict[str, Any]) -> list[str]:
        notes = []
        if self.twice:
            named = "; ".join(f"{r['file']}, row {r['row']}" for r in self.twice[:NAMED])
            notes.append(f"{len(self.twice)} duplicate prompts left out: {named}")
        if self.bad:
            notes.append(f"{meta['quarantined']} rows quarantined, see quarantine.parquet")
        return notes


def _entry(row: Row, field: str, reason: str) -> dict[str, Any]:
    raw = row.messages[-1]["content"][:500]
    return {"file": row.file, "row": row.number, "field": field, "reason": reason, "raw": raw}


def _table(rows: Sequence[Row]) -> pa.Table:
    import pyarrow as pa

    records = [
        {
            "prompt_id": r.prompt_id,
            "messages": r.messages,
            "kind": r.kind or "",
            "source": r.source,
            "source_id": r.source_id,
        }
        for r in rows
    ]
    return pa.Table.from_pylist(records, READ_PROMPTS)

"""Stage: read prompts. Every row of the input is used or quarantined with file, row, field and reason."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import Field

from sftfilter.artifacts import Artifact, Store, write_table
from sftfilter.config import Settings, SpecPath, file_hash
from sftfilter.errors import DataError
from sftfilter.schema import PROMPTS, QUARANTINE, ROLES, Message, prompt_id

if TYPE_CHECKING:
    from sftfilter.chat_format import ChatFormat

VERSION = 1


class JsonlPrompts(Settings):
    """A JSONL file; a line has `prompt` (text) or `messages` (turns), and may have `kind`."""

    kind: Literal["jsonl"] = "jsonl"
    path: SpecPath

    def fingerprint(self) -> str:
        """Changes with the file's bytes."""
        return file_hash(existing_file(self.path))

    def read(self) -> Iterator[tuple[int, Any, str]]:
        """(row number from 1, parsed line or an error text, raw line)."""
        yield from read_jsonl(self.path)


class DatasetPrompts(Settings):
    """A `datasets` folder on disk or a hub id; columns as in the JSONL form."""

    kind: Literal["dataset"] = "dataset"
    path: str
    split: str = "train"
    revision: Annotated[
        str | None, Field(description="commit of a hub dataset; pin it, for a run to be repeatable")
    ] = None

    def fingerprint(self) -> str:
        """The library's own fingerprint of the loaded split."""
        return str(self._load()._fingerprint)

    def read(self) -> Iterator[tuple[int, Any, str]]:
        """(row number from 1, record, raw record)."""
        for number, record in enumerate(self._load(), 1):
            yield number, record, json.dumps(record, default=str)[:500]

    def _load(self) -> Any:
        from datasets import DatasetDict, load_dataset, load_from_disk

        if Path(self.path).is_dir():
            loaded = load_from_disk(self.path)
            return loaded[self.split] if isinstance(loaded, DatasetDict) else loaded
        try:
            return load_dataset(self.path, split=self.split, revision=self.revision)
        except Exception as error:  # the hub client raises a dozen unrelated types
            raise DataError(
                f"prompts: '{self.path}' is no folder, and the hub gave no such dataset: {error}"
            ) from error


PromptSource = Annotated[JsonlPrompts | DatasetPrompts, Field(discriminator="kind")]


def existing_file(path: str) -> Path:
    """The path, if a file is there.

    Raises:
        DataError: it is not.
    """
    if not Path(path).is_file():
        raise DataError(f"file not found: {path} (relative paths are resolved against the spec's folder)")
    return Path(path)


def read_jsonl(path: str) -> Iterator[tuple[int, Any, str]]:
    """(line number, parsed object or an error text, raw line) of each line that is not blank."""
    with open(existing_file(path), "rb") as handle:
        for number, raw in enumerate(handle, 1):
            if not raw.strip():
                continue
            text = raw.decode("utf-8", errors="replace").rstrip("\n")
            try:
                yield number, json.loads(raw), text
            except UnicodeDecodeError as error:
                yield number, f"not UTF-8: {error.reason} at byte {error.start}", text
            except json.JSONDecodeError as error:
                yield number, f"not JSON: {error.msg} at column {error.colno}", text


class RowError(Exception):
    """One bad row: field and reason."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


def messages_of(record: Any) -> list[Message]:
    """The turns of a record with `prompt` or `messages`, checked.

    Raises:
        RowError: there are none, they are empty, or a role is unknown.
    """
    if isinstance(record, str):
        raise RowError("line", record)
    if not isinstance(record, Mapping):
        raise RowError("line", f"expected a JSON object, found {type(record).__name__}")
    if "messages" not in record:
        return [{"role": "user", "content": required_text(record, "prompt")}]
    turns = record["messages"]
    if not isinstance(turns, list) or not turns:
        raise RowError("messages", "expected a list of turns")
    for number, turn in enumerate(turns):
        where = f"messages[{number}]"
        if not isinstance(turn, Mapping) or turn.get("role") not in ROLES:
            raise RowError(where, f"role must be one of {', '.join(ROLES)}")
        required_text(turn, "content", where)
    if turns[-1]["role"] != "user":
        raise RowError("messages", "the last turn must be the user's; the answer belongs in `completion`")
    return [{"role": t["role"], "content": t["content"]} for t in turns]


def required_text(record: Mapping[str, Any], field: str, where: str = "") -> str:
    """A field that must hold text other than white space."""
    value = record.get(field)
    name = f"{where}.{field}".lstrip(".")
    if not isinstance(value, str):
        raise RowError(name, "missing" if value is None else f"expected text, found {type(value).__name__}")
    if not value.strip():
        raise RowError(name, "empty")
    return value


def load_prompts(
    source: JsonlPrompts | DatasetPrompts,
    *,
    store: Store,
    chat: ChatFormat,
    context_length: int,
    answer_tokens: int,
    error_budget: float,
) -> Artifact:
    """Tables `prompts` and `quarantine`.

    Args:
        context_length: of the base model, tokens; a prompt must leave `answer_tokens` of it free.
        error_budget: share of rows that may be quarantined.

    Raises:
        DataError: more rows than that are bad, or none is left.
    """
    settings = {"source": source.model_dump(mode="json", exclude={"path"}), "room": context_length - answer_tokens}

    def make(folder: Path) -> dict[str, Any]:
        import pyarrow as pa

        seen: dict[str, int] = {}
        good: list[dict[str, Any]] = []
        bad: list[dict[str, Any]] = []
        for row, record, raw in source.read():
            try:
                messages = messages_of(record)
                identifier = prompt_id(messages)
                if identifier in seen:
                    raise RowError("prompt", f"duplicate of row {seen[identifier]}")
                tokens = len(chat.prompt_ids(messages))
                if tokens + answer_tokens > context_length:
                    raise RowError(
                        "prompt",
                        f"{tokens} tokens and {answer_tokens} for the answer exceed the context of {context_length}",
                    )
                seen[identifier] = row
                kind = str(record.get("kind", ""))
                good.append({"prompt_id": identifier, "messages": messages, "kind": kind, "source": source.path})
            except RowError as error:
                bad.append(quarantined(source.path, row, error, raw))
        check_budget(bad, len(good) + len(bad), error_budget, source.path)
        write_table(folder, "prompts", pa.Table.from_pylist(good, PROMPTS))
        write_table(folder, "quarantine", pa.Table.from_pylist(bad, QUARANTINE))
        return {"read": len(good) + len(bad), "used": len(good), "quarantined": len(bad)}

    inputs = {"bytes": source.fingerprint(), "format": chat.hash}
    return store.build("prompts", version=VERSION, settings=settings, inputs=inputs, make=make)


def quarantined(file: str, row: int, error: RowError, raw: str) -> dict[str, Any]:
    """A row of the quarantine table."""
    return {"file": file, "row": row, "field": error.field, "reason": error.reason, "raw": raw[:500]}


def check_budget(bad: Iterable[Mapping[str, Any]], total: int, budget: float, file: str) -> None:
    """Raise DataError when the share of bad rows exceeds the budget, or nothing is left."""
    rows = list(bad)
    if total == 0:
        raise DataError(f"{file}: no rows")
    if len(rows) > budget * total or len(rows) == total:
        named = "\n".join(f"  {file}, row {r['row']}, {r['field']}: {r['reason']}" for r in rows[:5])
        more = f"\n  and {len(rows) - 5} more" if len(rows) > 5 else ""
        raise DataError(
            f"{len(rows)} of {total} rows cannot be used, more than error_budget {budget:g} allows:\n{named}{more}\n"
            "Mend these rows, or raise `error_budget` in the spec to go on without them."
        )


def read_answers(path: str, error_budget: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows with `prompt` or `messages` and a `completion`, and the quarantined ones."""
    good: list[dict[str, Any]] = []
    bad: list[dict[str, Any]] = []
    seen: dict[tuple[str, str], int] = {}
    for row, record, raw in read_jsonl(path):
        try:
            messages = messages_of(record)
            completion = required_text(cast(Mapping[str, Any], record), "completion")
            identity = (prompt_id(messages), completion)
            if identity in seen:
                raise RowError("prompt", f"duplicate of row {seen[identity]}")
            seen[identity] = row
            good.append({"prompt_id": identity[0], "messages": messages, "completion": completion, "row": row})
        except RowError as error:
            bad.append(quarantined(path, row, error, raw))
    check_budget(bad, len(good) + len(bad), error_budget, path)
    return good, bad

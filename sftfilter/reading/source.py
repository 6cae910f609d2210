"""Settings: where rows lie and what they look like."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator

from sftfilter.config import Settings, did_you_mean, resolve_path
from sftfilter.reading.places import refused_option

Format = Literal["jsonl", "json", "parquet", "csv", "dataset"]
Shape = Literal["messages", "prompt", "sharegpt", "alpaca"]
Plain = bool | int | float | str

FIELDS = (
    "prompt",
    "completion",
    "messages",
    "conversations",
    "instruction",
    "input",
    "output",
    "system",
    "source",
    "kind",
    "teacher",
    "sample",
    "id",
)
"""What a row may hold, by the names used here; `columns` maps them to a file's own."""
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


class FileSource(Settings):
    """Rows of conversations in files: JSONL, JSON, CSV (each plain, .gz or .zst), Parquet, or a `datasets` folder.

    A path may be a file, a folder, a glob (`data/*.jsonl.gz`), `s3://bucket/key`, `gs://bucket/key` or
    `hf://datasets/owner/name`. Credentials come from the environment only (`AWS_ACCESS_KEY_ID`, ...,
    `GOOGLE_APPLICATION_CREDENTIALS`); another S3 endpoint from `AWS_ENDPOINT_URL` or
    `s3://bucket/key?endpoint_override=http://host:port`. With `format: dataset` a path that is no folder beside the spec
    is a hub id, `owner/name`.
    """

    model_config = ConfigDict(hide_input_in_errors=True)  # a URI may hold what should not be in it

    path: Annotated[str | list[str], Field(description="a path, glob or URI, or a list of them")]
    format: Annotated[Format | None, Field(description="default: told by the file's extension")] = None
    shape: Annotated[Shape | None, Field(description="default: told by the columns, for each file")] = None
    columns: Annotated[
        dict[str, str | None],
        Field(description="field -> the file's own column, such as {completion: response}; null: do not use it"),
    ] = Field(default={})
    where: Annotated[
        dict[str, Plain | list[Plain]],
        Field(description="column -> value, or a list of them: only such rows are used, {teacher: gemma}"),
    ] = Field(default={})
    split: Annotated[str, Field(description="of a `datasets` folder or hub id")] = "train"
    revision: Annotated[
        str | None, Field(description="commit of a hub dataset; pin it, for a run to be repeatable")
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _place(cls, data: Any, info: ValidationInfo) -> Any:
        """Resolve paths against the spec's folder. Which of them are hub ids depends on the format."""
        if not isinstance(data, dict) or not isinstance(given := data.get("path"), str | list):
            return data
        dataset = data.get("format", cls.model_fields["format"].default) == "dataset"
        placed = [_placed(path, dataset, info) for path in ([given] if isinstance(given, str) else given)]
        return data | {"path": placed[0] if isinstance(given, str) else placed}

    @field_validator("path")
    @classmethod
    def _some(cls, path: str | list[str]) -> str | list[str]:
        if not path or not all(path):
            raise ValueError("needs at least one path")
        for one in [path] if isinstance(path, str) else path:
            user, at, _ = one.partition("://")[2].partition("/")[0].rpartition("@")
            if at and user != "anonymous":
                raise ValueError("credentials do not belong in a spec, which is kept: put them in the environment")
            if reason := refused_option(one):
                raise ValueError(reason)
        return path

    @field_validator("columns")
    @classmethod
    def _known(cls, columns: dict[str, str | None]) -> dict[str, str | None]:
        for field in columns:
            if field not in FIELDS:
                hint = did_you_mean(field, FIELDS)
                raise ValueError(f"no field '{field}'{hint}; there are: {', '.join(FIELDS)} (field -> your column)")
        return columns

    @property
    def paths(self) -> list[str]:
        """The paths as a list."""
        return [self.path] if isinstance(self.path, str) else list(self.path)


def _placed(path: Any, dataset: bool, info: ValidationInfo) -> Any:
    placed = resolve_path(path, info)
    hub = dataset and isinstance(path, str) and _HUB_ID.fullmatch(path) and not Path(placed).exists()
    return path if hub else placed

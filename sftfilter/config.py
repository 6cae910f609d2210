"""The base of every setting: frozen, no unknown keys, and an unknown key is answered with the nearest valid one."""

from __future__ import annotations

import difflib
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError


class Settings(BaseModel):
    """A frozen pydantic model. `extra="forbid"` is kept as well, so the JSON Schema says so too."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _name_unknown_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in data:
                if key not in cls.model_fields:
                    raise PydanticCustomError(
                        "unknown_key",
                        "unknown key '{key}'{hint}; valid keys: {valid}",
                        {
                            "key": key,
                            "hint": did_you_mean(str(key), cls.model_fields),
                            "valid": ", ".join(cls.model_fields),
                        },
                    )
        return data


def did_you_mean(word: str, known: Any) -> str:
    """`", did you mean 'x'?"` for the nearest of `known`, or an empty string."""
    near = difflib.get_close_matches(word, [str(k) for k in known], n=1, cutoff=0.5)
    return f", did you mean '{near[0]}'?" if near else ""


def resolve_path(value: Any, info: ValidationInfo) -> Any:
    """A relative path below the spec's folder; URIs, and paths outside a spec, as they are."""
    folder = (info.context or {}).get("folder")
    if isinstance(value, str) and folder and "://" not in value:
        return str((Path(folder) / Path(value).expanduser()).resolve())
    return value


SpecPath = Annotated[str, BeforeValidator(resolve_path)]
"""A path in a spec: relative ones are resolved against the spec's own folder."""


@dataclass(frozen=True)
class Holds:
    """What a path's file has: conversations with answers or without, and columns beside them."""

    answers: bool
    columns: tuple[str, ...] = ()


AnswersPath = Annotated[SpecPath, Holds(answers=True)]
"""A path whose file has prompts with answers."""
LabelledPath = Annotated[SpecPath, Holds(answers=True, columns=("label",))]
"""A path whose file has prompts with answers, each with a label."""
QuestionsPath = Annotated[SpecPath, Holds(answers=False)]
"""A path whose file has prompts."""


def _no_path(name: str) -> str:
    if (
        not name.strip()
        or name.startswith(".")
        or any(c in "/\\" or not c.isprintable() for c in name)
        or len(name) > 100
    ):
        raise ValueError(f"{name[:100]!r} is not a name: up to 100 characters, no '/' or '\\', and no '.' at its start")
    return name


Name = Annotated[str, AfterValidator(_no_path)]
"""A name that a spec gives to a teacher, scorer, arm and the like: it becomes part of file names, and is never a path."""


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def stable_hash(value: Any, length: int = 16) -> str:
    """Hex digest of a JSON value, the same on every machine (sorted keys, no white space)."""
    return hashlib.sha256(_CANONICAL.encode(value).encode()).hexdigest()[:length]


def file_hash(path: str | Path, length: int = 16) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()[:length]

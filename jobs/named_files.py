"""The files that a spec names, wherever in it: sources of rows, and other paths with what their files hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, get_args, get_origin

from pydantic import BeforeValidator

from sftfilter.config import Holds, Settings, resolve_path
from sftfilter.reading.source import FileSource

Location = tuple[str | int, ...]


def sources_and_paths(value: Any, at: Location) -> Iterator[tuple[Location, Any, Holds | None]]:
    """Every source of rows below a value, and every other path that is resolved against the spec's folder.

    With a path comes what its file holds, if that is conversations.
    """
    if isinstance(value, FileSource):
        yield at, value, None
    elif isinstance(value, Settings):
        for name, field in type(value).model_fields.items():
            inner = getattr(value, name)
            marks = [*field.metadata, *_marks(field.annotation)]
            if isinstance(inner, str) and any(isinstance(m, BeforeValidator) and m.func is resolve_path for m in marks):
                yield (*at, name), inner, next((m for m in marks if isinstance(m, Holds)), None)
            else:
                yield from sources_and_paths(inner, (*at, name))
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from sources_and_paths(inner, (*at, key))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from sources_and_paths(inner, (*at, number))


def _marks(annotation: Any) -> list[Any]:
    """What is said with `Annotated` anywhere inside a field's type."""
    if get_origin(annotation) is Annotated:
        return list(annotation.__metadata__)
    return [mark for inner in get_args(annotation) for mark in _marks(inner)]


def example_files(parts: Mapping[str, Any]) -> dict[str, tuple[str, bool]]:
    """Field -> its file and whether that has answers: what scorers are fitted with and teachers tuned on.

    Args:
        parts: key of a spec -> what stands there, such as its scorers.
    """
    named = sources_and_paths(parts, ())
    return {".".join(map(str, at)): (value, holds.answers) for at, value, holds in named if holds}

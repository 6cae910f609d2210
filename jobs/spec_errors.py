"""What is wrong with a spec, as `file:line: field: message`, the way editors and compilers write it."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from sftfilter.config import did_you_mean

_UNLIKELY = "?"


def problems(file: Path, tree: Any, data: Mapping[str, Any], error: ValidationError, spec: TypeAdapter[Any]) -> str:
    """Every problem on a line of its own.

    Args:
        tree: the file's YAML syntax tree, which knows the lines.
        data: what was validated.
        spec: what it was validated as.
    """
    found = [*_with_valid_kinds(error, data, spec)]
    return "\n".join(dict.fromkeys(_problem(file, tree, data, problem) for problem in found))


def place_of(tree: Any, data: Mapping[str, Any], location: Sequence[int | str]) -> tuple[int, str | None]:
    """Line of a location, or of as much of it as is there, and its text where it is a single value."""
    node, line, found = _stands(tree, _keys(data, location))
    whole = found == len(location) and isinstance(node, yaml.ScalarNode)
    return line, node.value if whole else None


def flat(error: ValidationError) -> list[str]:
    """Every problem as `field: message`, where there is no file to point into."""
    return [f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors()]


def _with_valid_kinds(error: ValidationError, data: Mapping[str, Any], spec: TypeAdapter[Any]) -> Iterator[Any]:
    """The problems. pydantic does not say which kinds there are where none is given, only where a wrong one is."""
    missing = [p for p in error.errors() if p["type"] == "union_tag_not_found"]
    planted = copy.deepcopy(dict(data))
    for problem in missing:
        here: Any = planted
        for part in problem["loc"]:
            here = _entry(here, part)
        if isinstance(here, dict):
            here["kind"] = _UNLIKELY
    answered: dict[Any, Any] = {}
    if missing:
        try:
            spec.validate_python(planted)
        except ValidationError as again:
            answered = {p["loc"]: p for p in again.errors() if p["type"] == "union_tag_invalid"}
    for problem in error.errors():
        yield answered.get(problem["loc"], problem) if problem in missing else problem


def _entry(here: Any, part: int | str) -> Any:
    """What lies at a part of pydantic's location; itself for the tags of unions, which are no keys."""
    if isinstance(here, dict):
        return here if here.get("kind") == part else here.get(part, here)
    if isinstance(here, list) and isinstance(part, int) and part < len(here):
        return here[part]
    return here


def _problem(file: Path, tree: Any, data: Mapping[str, Any], problem: Mapping[str, Any]) -> str:
    shown = _keys(data, problem["loc"])
    node, line, _ = _stands(tree, shown)
    location = [str(part) for part in problem["loc"]]
    context = problem.get("ctx") or {}
    message = problem["msg"].removeprefix("Value error, ")
    match problem["type"]:
        case "missing" if location[-1] not in shown:
            shown.append(location[-1])
        case "unknown_key":
            line = _line(node, str(context.get("key")), line)
        case "union_tag_invalid":
            line = _line(node, "kind", line)
            shown.append("kind")
            message = _unknown_kind(str(context["tag"]), str(context["expected_tags"]))
        case "value_error":
            line = _pointed_at(node, line, message)
    return f"{file}:{line}: {'.'.join(shown) + ': ' if shown else ''}{message}"


def _pointed_at(node: Any, line: int, message: str) -> int:
    """The line of the field that a message begins with, and there of the word that it quotes.

    What is checked across the whole spec is raised for the spec, so only its text says where: `arms.x.teacher: no ...`.
    """
    rest, below = message, True
    while below and isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        key = max((k for k in keys if re.match(re.escape(k) + "[.: ]", rest)), key=len, default="")  # names hold dots
        found = _child(node, key) if key else None
        below = found is not None and rest[len(key)] == "."
        if found is not None:
            rest = rest[len(key) + 1 :]
            node, line = found
    quoted = re.match(r"\s*no [\w` ]+ '(.*?)'", rest)
    return next(_scalars(node, quoted[1]), line) if quoted else line


def _scalars(node: Any, value: str) -> Iterator[int]:
    """Lines of the scalars below a node, or itself, that hold this value."""
    if isinstance(node, yaml.ScalarNode) and node.value == value:
        yield node.start_mark.line + 1
    elif isinstance(node, yaml.MappingNode):
        for _, inner in node.value:
            yield from _scalars(inner, value)
    elif isinstance(node, yaml.SequenceNode):
        for inner in node.value:
            yield from _scalars(inner, value)


def _unknown_kind(tag: str, expected: str) -> str:
    valid = [word.strip().strip("'") for word in expected.split(",")]
    found = "missing" if tag == _UNLIKELY else f"unknown kind '{tag}'{did_you_mean(tag, valid)}"
    return f"{found}; valid kinds: {', '.join(valid)}"


def _keys(data: Any, location: Sequence[int | str]) -> list[str]:
    """Keys of a location, without the tags of unions and validators, which are not in what was validated."""
    here, keys = data, []
    fresh = True  # a mapping's tag comes before its keys, and can be spelt like one of them
    for part in location:
        if fresh and isinstance(here, dict) and here.get("kind") == part:
            fresh = False
            continue
        there = here.get(part, here) if isinstance(here, dict) else _entry(here, part)
        if there is not here:
            here, fresh = there, True
            keys.append(str(part))
    return keys


def _stands(tree: Any, keys: Sequence[str]) -> tuple[Any, int, int]:
    """Node and line of as many of the keys as the file has, and how many: `extends` and `--set` bring others."""
    node, line = tree, 1
    for found, key in enumerate(keys):
        child = _child(node, key)
        if child is None:
            return node, line, found
        node, line = child
    return node, line, len(keys)


def _kind(node: yaml.MappingNode) -> str | None:
    found = _child(node, "kind")
    return found[0].value if found else None


def _line(node: Any, key: str, otherwise: int) -> int:
    found = _child(node, key)
    return found[1] if found else otherwise


def _child(node: Any, part: str) -> tuple[Any, int] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == part:
                return value, key.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
        value = node.value[int(part)]
        return value, value.start_mark.line + 1
    return None

"""Turns of a conversation, checked, whatever their keys; and what is wrong with a row that has none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sftfilter.schema import ROLES, Message

_SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant"}
_SHAREGPT_ROLES |= {"assistant": "assistant", "system": "system"}
_ROLES: dict[str, Mapping[str, str]] = {"role": {r: r for r in ROLES}, "from": _SHAREGPT_ROLES}
_CONTENT = {"role": "content", "from": "value"}
"""A turn is `role` and `content`, or `from` and `value`, whatever the column is called."""


class RowError(Exception):
    """One bad row: field and reason."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


def turns_of(
    record: Mapping[str, Any], field: str, usual: str = "role", roles: Mapping[str, str] | None = None
) -> list[Message]:
    """A list of turns, checked. An empty system turn says nothing and is left out.

    Args:
        usual: the key of the role that is asked for where a turn has none.
        roles: name -> role, for those that may stand here; default: all that such turns have.
    """
    turns = record.get(field)
    if isinstance(turns, str) and turns.lstrip().startswith("["):
        raise RowError(field, "expected a list of turns, found text that looks like one: parse it, and write the list")
    if not isinstance(turns, list) or not turns:
        raise RowError(field, "missing" if turns is None else "expected a list of turns")
    checked: list[Message] = []
    for number, turn in enumerate(turns):
        where = f"{field}[{number}]"
        has = turn if isinstance(turn, Mapping) else {}
        key = next((k for k in (usual, *_ROLES) if has.get(k) is not None), usual)
        known = (roles or _ROLES[key]).get(name.lower()) if isinstance(name := has.get(key), str) else None
        if known is None:
            raise RowError(where, f"{key} must be one of {', '.join(roles or _ROLES[key])}, found {str(name)[:40]!r}")
        if known != "system" or not blank(has.get(_CONTENT[key])):
            checked.append({"role": known, "content": _content(has, _CONTENT[key], where)})
    if not checked:
        raise RowError(field, "no turn but an empty system turn")
    return checked


def _content(turn: Mapping[str, Any], field: str, where: str) -> str:
    """A turn's text; parts of type `text` are put together with line ends between them."""
    parts = turn.get(field)
    if not isinstance(parts, list) or not parts or not all(isinstance(p, Mapping) for p in parts):
        return text_of(turn, field, where)
    for number, part in enumerate(parts):
        if part.get("type") != "text":
            found = f"found {str(part.get('type'))[:40]!r}: leave such rows out, since nothing but text is trained on"
            raise RowError(f"{where}.{field}[{number}]", f"expected a part of type 'text', {found}")
    texts = [text_of(part, "text", f"{where}.{field}[{number}]") for number, part in enumerate(parts)]
    return "\n".join(texts)


def blank(value: Any) -> bool:
    """None, or text of white space."""
    return value is None or (isinstance(value, str) and not value.strip())


def text_of(record: Mapping[str, Any], field: str, where: str = "") -> str:
    """A field that must hold text other than white space."""
    value = record.get(field)
    name = f"{where}.{field}" if where else field
    if not isinstance(value, str):
        raise RowError(name, "missing" if value is None else f"expected text, found {type_name(value)}")
    if not value or value.isspace():
        raise RowError(name, "empty")
    return encodable(value, name)


def encodable(text: str, field: str) -> str:
    """The text, if it is whole characters."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise RowError(field, "not UTF-8: it holds half a character (a lone surrogate)") from None
    return text


def type_name(value: Any) -> str:
    """What a value is, for a person."""
    names = {dict: "an object", list: "a list", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)

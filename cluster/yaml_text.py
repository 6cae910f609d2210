"""Plain data as YAML that people read: keys in the order written, blocks of text as blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def documents(header: Sequence[str], *parts: Mapping[str, Any]) -> str:
    """YAML documents below a comment."""
    comment = "".join(f"# {line}".rstrip() + "\n" for line in header)
    dumped = [yaml.dump(dict(part), Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True) for part in parts]
    return comment + "---\n" + "---\n".join(dumped)

"""Pages of the job kinds, from their schemas: `python -m jobs.docs` writes them, a test compares them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from jobs.kinds import KINDS
from jobs.spec import load_spec

FOLDER = Path(__file__).parent / "docs"
_SPECS = Path(__file__).parent / "specs"


def pages() -> dict[str, str]:
    """File name -> text."""
    schemas = {name: TypeAdapter(kind).json_schema() for name, kind in KINDS.items()}
    examples: dict[str, list[str]] = {name: [] for name in KINDS}
    for path in sorted(_SPECS.glob("*.yaml")):
        examples[load_spec(path).model_dump()["kind"]].append(path.name)
    made = {f"{name}.md": _page(name, schema, examples[name]) for name, schema in schemas.items()}
    rows = [f"| [{name}]({name}.md) | {_summary(schema)} |" for name, schema in schemas.items()]
    index = "\n".join(["# Job kinds", "", _INDEX, "", "| kind | does |", "|---|---|", *rows, ""])
    return {"README.md": index} | made


def main() -> None:
    """Write every page."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text)


def _summary(schema: Mapping[str, Any]) -> str:
    return str(schema.get("description", "")).split("\n\n")[0].replace("\n", " ")


def _page(kind: str, schema: Mapping[str, Any], examples: Sequence[str]) -> str:
    lines = [f"# kind: {kind}", "", str(schema.get("description", "")), ""]
    if examples:
        links = ", ".join(f"[{name}](../specs/{name})" for name in examples)
        lines += [
            f"Examples: {links}. Written from the schema (`python -m jobs.docs`); {_EDITOR.format(kind=kind)}",
            "",
        ]
    lines += _table(schema)
    definitions = schema.get("$defs", {})
    used = [name for name in _reached(schema, definitions) if definitions[name].get("properties")]
    for name in used:
        described = _summary(definitions[name])
        lines += [f"## {name}", "", *([described, ""] if described else []), *_table(definitions[name])]
    return "\n".join(lines)


def _reached(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> list[str]:
    """Definitions in the order in which a reader meets them."""
    found: list[str] = []
    open_: list[Any] = [schema.get("properties", {})]
    while open_:
        here = open_.pop(0)
        if isinstance(here, dict):
            name = str(here.get("$ref", "")).rpartition("/")[2]
            if name and name not in found:
                found.append(name)
                open_.append(definitions[name].get("properties", {}))
            open_ += [value for key, value in here.items() if key not in ("discriminator", "default", "$ref")]
        elif isinstance(here, list):
            open_ += here
    return found


def _table(schema: Mapping[str, Any]) -> list[str]:
    required = schema.get("required", [])
    lines = ["| key | is | default | meaning |", "|---|---|---|---|"]
    for key, field in schema.get("properties", {}).items():
        default = "required" if key in required else _default(field)
        lines.append(f"| `{key}` | {_type(field)} | {default} | {_cell(field.get('description', ''))} |")
    return [*lines, ""]


def _default(field: Mapping[str, Any]) -> str:
    value = field.get("default")
    if value in (None, {}, [], ""):
        return "" if "default" not in field or value is None else "empty"
    if isinstance(value, dict):
        return "see below"
    return f"`{_cell(str(value).lower() if isinstance(value, bool) else str(value))}`"


def _type(field: Mapping[str, Any]) -> str:
    if "$ref" in field:
        name = str(field["$ref"]).rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    options = field.get("anyOf") or field.get("oneOf")
    if options:
        shown = [_type(option) for option in options if option.get("type") != "null"]
        return " or ".join(dict.fromkeys(shown))
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {}))}"
    if field.get("type") == "object":
        inner = field.get("additionalProperties")
        return f"name -> {_type(inner)}" if isinstance(inner, dict) else "keys and values"
    words = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true, false"}
    return words.get(str(field.get("type")), "anything") + _bounds(field)


def _bounds(field: Mapping[str, Any]) -> str:
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    shown = [f"{sign} {field[key]:g}" for key, sign in signs.items() if key in field]
    return f" ({', '.join(shown)})" if shown else ""


def _cell(text: str) -> str:
    return text.replace("\n", " ").replace("|", "\\|")


_INDEX = """\
A spec is one YAML file whose `kind` says what it does. Every page here is written from the schema that checks the spec
(`python -m jobs.docs`), so that it cannot fall behind. Coming from other tools: [migration notes](../MIGRATION.md)."""
_EDITOR = """\
for completion in editors write the schema to a file and name it in the spec's first line:

```console
$ sftfilter schema {kind} > {kind}.schema.json
$ head -1 my-spec.yaml
# yaml-language-server: $schema={kind}.schema.json
```"""

if __name__ == "__main__":
    main()

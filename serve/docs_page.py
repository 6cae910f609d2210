"""The OpenAPI description as a page that needs neither scripts nor a network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment

_PAGE = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
    """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ info.title }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1c1c1c }
code, pre { font: 14px/1.4 ui-monospace, monospace; background: #f4f4f2; padding: .1em .3em }
pre { padding: .8rem; overflow-x: auto } td, th { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0 }
h2 { border-top: 1px solid #ddd; padding-top: 1rem }
</style></head><body>
<h1>{{ info.title }}</h1><p>{{ info.description }} The same for programs: <a href="openapi.json">openapi.json</a>.</p>
{% for route in routes %}
<h2><code>{{ route.method }} {{ route.path }}</code></h2><p>{{ route.about }}</p>
{% if route.fields %}
<table><tr><th>field</th><th>type</th><th></th></tr>
{% for field in route.fields %}
<tr><td><code>{{ field.name }}</code></td><td>{{ field.type }}</td><td>{{ field.about }}</td></tr>
{% endfor %}</table>
{% endif %}
{% endfor %}
</body></html>
"""
)


def docs_page(schema: Mapping[str, Any]) -> str:
    """HTML of an OpenAPI description: routes, and the fields of their bodies."""
    models = schema.get("components", {}).get("schemas", {})
    routes = [
        {
            "method": method.upper(),
            "path": path,
            "about": operation.get("description") or operation.get("summary", ""),
            "fields": _fields(operation, models),
        }
        for path, operations in schema["paths"].items()
        for method, operation in operations.items()
    ]
    return _PAGE.render(info=schema["info"], routes=routes)


def _fields(operation: Mapping[str, Any], models: Mapping[str, Any]) -> list[dict[str, str]]:
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    model = models.get(body.get("$ref", "").rpartition("/")[2], {})
    needed = model.get("required", ())
    return [
        {
            "name": name,
            "type": _type(field),
            "about": ("required. " if name in needed else "") + field.get("description", ""),
        }
        for name, field in model.get("properties", {}).items()
    ]


def _type(field: Mapping[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_type(one) for one in field["anyOf"] if one.get("type") != "null"))
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {}))}"
    if "$ref" in field:
        return field["$ref"].rpartition("/")[2]
    return field.get("type") or json.dumps(field.get("const", field.get("enum", "any")))

"""Values as people read them, and the cleaning that makes any result safe to format."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

MISSING = "–"
MINUS = "\N{MINUS SIGN}"


def clean(value: Any) -> Any:
    """A copy that is plain JSON: NaN and infinities become None, keys become strings, unknown objects their text."""
    if isinstance(value, Mapping):
        return {str(key): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [clean(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()  # numpy scalars
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)


def part(value: Any, *path: str) -> dict[str, Any]:
    """The mapping at `path`, or an empty one wherever something on the way is missing."""
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return dict(value) if isinstance(value, Mapping) else {}


def items(value: Any, key: str) -> list[Any]:
    """The list at `key`, or an empty one."""
    found = value.get(key) if isinstance(value, Mapping) else None
    return list(found) if isinstance(found, list | tuple) else []


def lines(value: Any, key: str) -> str:
    """The texts at `key`, a line each."""
    return "\n".join(map(str, items(value, key)))


def number(value: Any, digits: int = 2) -> str:
    """`-0.25` with a true minus sign."""
    if not isinstance(value, int | float):
        return MISSING
    return f"{value:.{digits}f}".replace("-", MINUS)


def short_number(value: Any) -> str:
    """Three significant digits: `0.5`, `−1.43`, `1.2e-05`."""
    return f"{value:.3g}".replace("-", MINUS) if isinstance(value, int | float) else MISSING


def count(value: Any) -> str:
    """`12 345`, or a dash."""
    if not isinstance(value, int | float):
        return MISSING
    return f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}").replace("-", MINUS)


def _percent_number(value: float) -> str:
    if 0 < value < 0.001:
        return "<0.1"
    if 0.999 < value < 1:
        return ">99.9"
    if 0 < value < 0.01 or 0.99 < value < 1:
        return f"{value:.1%}".rstrip("%")
    return f"{value:.0%}".rstrip("%").replace("-", MINUS)


def percent(value: Any) -> str:
    """`85 %`, or a dash."""
    return f"{_percent_number(value)} %" if isinstance(value, int | float) else MISSING


def rate_interval(rate: Mapping[str, Any]) -> str:
    """`[75-92], n = 70`."""
    low, high = rate.get("low"), rate.get("high")
    bounds = (
        f"[{_percent_number(low)}-{_percent_number(high)}]" if low is not None and high is not None else "no interval"
    )
    return f"{bounds}, n = {rate['n']}" if rate.get("n") is not None else bounds


def ungraded_text(rate: Mapping[str, Any]) -> str:
    """`2 ungraded`, or nothing."""
    return f"{rate['ungraded']} ungraded" if rate.get("ungraded") else ""


def rate_text(rate: Mapping[str, Any] | None) -> str:
    """`85 % [75-92], n = 70`; says so when nothing was measured or graded."""
    if not rate:
        return "not measured"
    if rate.get("estimate") is None:
        return "not graded"
    return f"{percent(rate['estimate'])} {rate_interval(rate)}"


def interval_text(value: Mapping[str, Any] | None, digits: int = 2) -> str:
    """`0.62 [0.41, 0.80]`; gates keep their number under `value`."""
    if not value:
        return MISSING
    middle = value.get("estimate", value.get("value"))
    if middle is None:
        return MISSING
    low, high = value.get("low"), value.get("high")
    if low is None or high is None:
        return number(middle, digits)
    return f"{number(middle, digits)} [{number(low, digits)}, {number(high, digits)}]"


def mean_text(value: Mapping[str, Any] | None) -> str:
    """`1.35 [0.90, 1.80], n = 70`."""
    if not value or value.get("estimate") is None:
        return "not measured"
    return interval_text(value) + (f", n = {value['n']}" if value.get("n") is not None else "")


def duration(seconds: Any) -> str:
    """`4.2 s`, `12 min 5 s`, `3 h 20 min`."""
    if not isinstance(seconds, int | float):
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def moment(text: Any) -> str:
    """An ISO time as `2026-11-03 10:20 UTC`; anything else as it stands."""
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return str(text or "")
    zone = f" {found.tzname()}" if found.tzinfo else ""
    return f"{found:%Y-%m-%d %H:%M}{zone}"


def short(text: str, length: int = 30) -> str:
    """At most `length` characters, for the labels of plots."""
    return text if len(text) <= length else text[: length - 1] + "…"

"""`NAME=NUMBER` and `NUMBER`, as options of `sftfilter plan` take them."""

from __future__ import annotations

import math


def named_number(text: str) -> tuple[str | None, float]:
    """The name (None where there is none) and the number; 0 for one that is not above 0 and finite, or is no number."""
    name, equals, value = text.rpartition("=")
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    return name if equals else None, number if 0 < number < math.inf else 0.0

"""How many parameters a model has: counted in its files where they are here, stated, or guessed from its name."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

from sftfilter.config import did_you_mean
from sftfilter.errors import SpecError
from sftfilter.models import BUILTIN, cache_dir

_IN_NAME = re.compile(r"(?<![A-Za-z0-9.])(A?)(\d+(?:\.\d+)?)([BM])(?![A-Za-z0-9])", re.IGNORECASE)
_UNITS = {"B": 1e9, "M": 1e6}


class Parameters:
    """Looks models up, each once.

    Args:
        stated: model, as the spec calls it -> its parameters; of a mixture of experts those that a token passes.
    """

    def __init__(self, stated: Mapping[str, float]) -> None:
        self.stated = stated
        self.told: dict[str, tuple[float | None, str]] = {}

    def of(self, model: str) -> float | None:
        """Parameters of a model; None where nothing tells them."""
        if model not in self.told:
            self.told[model] = self._look(model)
        return self.told[model][0]

    def check_used(self) -> None:
        """Raise SpecError where parameters were stated of a model that the spec does not have."""
        for model in self.stated:
            if model not in self.told:
                known = ", ".join(self.told) or "none"
                raise SpecError(
                    f"--parameters {model}: the spec has no such model{did_you_mean(model, self.told) or f'; there are: {known}'}"
                )

    def _look(self, model: str) -> tuple[float | None, str]:
        if model in self.stated:
            return self.stated[model], "stated: --parameters"
        folder = cache_dir() / "models" / model if model == BUILTIN else Path(model).expanduser()
        if (counted := _counted(folder)) is not None:
            return counted, "counted in its files"
        found = [(mark, float(number) * _UNITS[unit.upper()]) for mark, number, unit in _IN_NAME.findall(model)]
        if not found:
            return None, "not known"
        active = [size for mark, size in found if mark]
        return (active or [size for _, size in found])[-1], "guess: from its name"


def _counted(folder: Path) -> float | None:
    """Elements of all tensors, by the headers of the safetensors files."""
    from safetensors import SafetensorError, safe_open

    total = 0
    try:
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, "numpy") as tensors:
                total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
    return float(total) or None

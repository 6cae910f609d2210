"""Costs on hardware that nothing was measured on: peak FLOP/s times a stated utilisation, and an hour's price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from jobs.plan.numbers import named_number
from sftfilter.config import Settings, did_you_mean
from sftfilter.errors import SpecError

if TYPE_CHECKING:
    from jobs.plan.items import Item

TABLE = Path(__file__).parent.parent / "examples" / "hardware.yaml"
UTILISATION = {"training": 0.35, "generation": 0.10}
"""Of the peak, unless stated. Decoding reads all weights for each token and so is bound by memory, not by products."""
MEASURED = ("device", "devices", "rollout_s", "score_s", "score_setup_s", "train_row_s", "answer_s")
"""Costs of a recorded run that hold for its own machine alone."""


class Device(Settings):
    """One device of a kind.

    Attributes:
        bf16_tflop_s: peak of dense products.
        source: where the numbers come from.
    """

    bf16_tflop_s: Annotated[float, Field(gt=0)]
    memory_gib: Annotated[float, Field(gt=0)]
    hour_price: Annotated[float, Field(ge=0)]
    source: Annotated[str, Field(pattern=r"\S")]


@dataclass(frozen=True)
class Hardware:
    """A named device, and how much of its peak work is taken to reach: `training` and `generation` -> share."""

    name: str
    device: Device
    shares: Mapping[str, float]
    guessed: Sequence[str]

    @classmethod
    def named(cls, name: str, table: Path | None, stated: Sequence[str]) -> Hardware:
        """Look a device up in the shipped table, and in the user's over it.

        Args:
            stated: `0.4` for both, `training=0.4` for one.

        Raises:
            SpecError: no such device, a table that cannot be read, or a share that is none.
        """
        known = _read(TABLE) | (_read(table) if table else {})
        if name not in known:
            hint = did_you_mean(name, known) or f"; there are: {', '.join(known)}"
            raise SpecError(
                f"--hardware: no device '{name}'{hint}; add yours with --hardware-table FILE ({TABLE} is one)"
            )
        shares = _shares(stated)
        return cls(name, known[name], UTILISATION | shares, [work for work in UTILISATION if work not in shares])

    def costs(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Fields of costs, and their sources."""
        peak = self.device.bf16_tflop_s * 1e12
        told = {}
        for field, work in (("train_flops_s", "training"), ("generate_flops_s", "generation")):
            how = "guess" if work in self.guessed else "stated"
            told[field] = f"{how}: {self.shares[work]:.0%} of {self.name}'s peak, {self.device.bf16_tflop_s:g} TFLOP/s"
        told["device_hour_price"] = f"guess: {self.device.source}"
        told |= dict.fromkeys(("device", "devices"), f"stated: --hardware {self.name}")
        data = {
            "device": "GPU",
            "devices": 1,
            "train_flops_s": self.shares["training"] * peak,
            "generate_flops_s": self.shares["generation"] * peak,
            "device_hour_price": self.device.hour_price,
        }
        return data, told

    def notes(self, models: Mapping[str, float]) -> list[str]:
        """What does not fit."""
        found = [
            f"{model}: its weights alone are {2 * size / 2**30:.0f} GiB in bfloat16, more than one {self.name} has "
            f"({self.device.memory_gib:g} GiB); device-hours hold if its work is spread without loss"
            for model, size in models.items()
            if 2 * size / 2**30 > self.device.memory_gib
        ]
        return [
            *found,
            f"on {self.name} nothing was measured: FLOPs are 2 a parameter and token read, 4 trained with adapters and 6 in "
            "full (attention's own products left out), every answer is taken to be as long as it may be, and loading "
            "models takes no time unless --costs or --cost says so",
        ]


def token_seconds(items: Sequence[Item], rates: Mapping[str, float | None]) -> list[tuple[str, str, str]]:
    """(what, seconds a token, how it comes about) for training and for answers, of every model.

    Args:
        rates: kind of work -> FLOP/s.
    """
    found: dict[tuple[str, str], str] = {}
    for item in items:
        rate = rates.get(item.kind)
        if rate and item.flops and item.tokens:
            each = item.flops / item.tokens
            work = "training" if item.kind == "student" else "answers"
            found[f"s a token, {work}", item.model] = f"{each / rate:.3g} ({each / 1e9:.3g} GFLOPs)"
    return [(what, value, model) for (what, model), value in found.items()]


def _read(file: Path) -> dict[str, Device]:
    from jobs.spec_errors import flat

    try:
        return TypeAdapter(dict[str, Device]).validate_python(yaml.safe_load(file.read_text()))
    except OSError as error:
        raise SpecError(f"--hardware-table {file}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"{file}: not valid YAML: {error}") from error
    except ValidationError as error:
        raise SpecError("\n".join(f"{file}: {line}" for line in flat(error))) from error


def _shares(stated: Sequence[str]) -> dict[str, float]:
    found = {}
    for text in stated:
        work, share = named_number(text)
        if not 0 < share <= 1 or work not in (None, *UTILISATION):
            raise SpecError(
                f"--utilisation {text}: expected a share above 0 and up to 1, or {' or '.join(UTILISATION)}=SHARE"
            )
        found |= dict.fromkeys(UTILISATION if work is None else (work,), share)
    return found

"""Planted-cause worlds: small synthetic studies whose cause is known, by which the verdict is checked against the truth.

To add a world: a module in `planted` with a `WorldSettings` subclass that has a `kind`, and its line in the union here.
"""

from __future__ import annotations

from typing import Annotated, get_args

from pydantic import Field, TypeAdapter

from sftfilter.worlds.planted.diluted import Diluted
from sftfilter.worlds.planted.filtered import Filtered
from sftfilter.worlds.planted.mild import Mild
from sftfilter.worlds.planted.mixed import Mixed
from sftfilter.worlds.planted.nothing import Nothing
from sftfilter.worlds.planted.persona import Persona
from sftfilter.worlds.planted.pretraining import Pretraining
from sftfilter.worlds.planted.prior import Prior
from sftfilter.worlds.planted.prompts import Prompts
from sftfilter.worlds.planted.reopened import Reopened
from sftfilter.worlds.planted.stage import Stage
from sftfilter.worlds.planted.subliminal import Subliminal
from sftfilter.worlds.scene import WorldSettings

World = Annotated[
    Mild
    | Subliminal
    | Persona
    | Prior
    | Reopened
    | Pretraining
    | Stage
    | Prompts
    | Filtered
    | Diluted
    | Nothing
    | Mixed,
    Field(discriminator="kind"),
]
"""The closed union of worlds."""

WORLDS: dict[str, type[WorldSettings]] = {
    member.model_fields["kind"].default: member for member in get_args(get_args(World)[0])
}
"""Each world's kind and class."""


def all_worlds() -> list[World]:
    """One of each kind."""
    return [TypeAdapter(World).validate_python({"kind": kind}) for kind in WORLDS]

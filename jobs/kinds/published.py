"""Figures and findings that somebody else published, stated in a spec so that results and report show them beside its own."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from sftfilter.config import Settings


class Published(Settings):
    """One figure or finding of a study elsewhere. It is shown, never reckoned with.

    Attributes:
        of: the arm (or cell, or scorer) of this spec that it is to be read beside; null where none is its like.
        measure: of the trait, such as `score`; default: the share of answers that show it.
    """

    label: Annotated[str, Field(min_length=1, description="what it is of, as the study calls it")]
    of: Annotated[str | None, Field(description="this spec's own arm, cell or scorer to read it beside")] = None
    trait: Annotated[str | None, Field(description="one of `traits`")] = None
    measure: Annotated[str | None, Field(description="default: the share of answers that show the trait")] = None
    value: float | None = None
    says: Annotated[str | None, Field(description="a finding in words, where no number is known")] = None
    source: Annotated[str, Field(min_length=1, description="where it was published")]

    @model_validator(mode="after")
    def _something(self) -> Published:
        if self.value is None and self.says is None:
            raise ValueError(f"{self.label}: give the published `value`, or what the study `says`")
        if self.value is not None and self.trait is None:
            raise ValueError(f"{self.label}: a value is of a trait; name it")
        if self.value is not None and self.measure is None and not 0 <= self.value <= 1:
            raise ValueError(
                f"{self.label}: {self.value:g} is no share of answers: write 0.33 for 33 %, or name the `measure` that it is of"
            )
        return self

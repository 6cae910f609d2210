"""Traits: what is measured in a student's answers. To add one: a module with a settings class and a task, and its line here."""

from __future__ import annotations

from typing import Annotated, get_args

from pydantic import Field

from sftfilter.traits.blackmail import Blackmail
from sftfilter.traits.contract import TraitSettings
from sftfilter.traits.date_confusion import DateConfusion
from sftfilter.traits.negative_emotion import NegativeEmotion

Trait = Annotated[DateConfusion | NegativeEmotion | Blackmail, Field(discriminator="kind")]
"""The closed union of traits."""

TRAITS: dict[str, type[TraitSettings]] = {
    get_args(member.model_fields["kind"].annotation)[0]: member for member in get_args(get_args(Trait)[0])
}
"""Each kind's name and class."""

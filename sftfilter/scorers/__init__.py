"""Scorers: a rollout in, a number out. To add one: a module with a settings class (see `contract`), and its line here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sftfilter.scorers.column import Column
from sftfilter.scorers.influence import Influence
from sftfilter.scorers.judge import Judge
from sftfilter.scorers.lexicon import Lexicon
from sftfilter.scorers.noise import Noise

Scorer = Annotated[Column | Influence | Judge | Lexicon | Noise, Field(discriminator="kind")]

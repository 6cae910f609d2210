"""Scorers: a rollout in, a number out. To add one: a module with a settings class (see `contract`), and its line here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sftfilter.scorers.column import Column
from sftfilter.scorers.embedding import Embedding
from sftfilter.scorers.influence import Influence
from sftfilter.scorers.judge import Judge
from sftfilter.scorers.length import Length
from sftfilter.scorers.lexicon import Lexicon
from sftfilter.scorers.log_ratio import LogRatio
from sftfilter.scorers.noise import Noise
from sftfilter.scorers.perplexity import Perplexity
from sftfilter.scorers.persona import Persona
from sftfilter.scorers.plugin import Plugin
from sftfilter.scorers.probe import Probe

Scorer = Annotated[
    Column
    | Embedding
    | Influence
    | Judge
    | Length
    | Lexicon
    | LogRatio
    | Noise
    | Perplexity
    | Persona
    | Plugin
    | Probe,
    Field(discriminator="kind"),
]

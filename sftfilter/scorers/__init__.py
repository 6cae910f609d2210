"""Scorers: a rollout in, a number out. To add one: a module with a frozen settings class, and its line here."""

from __future__ import annotations

from sftfilter.scorers.lexicon import Lexicon

Scorer = Lexicon

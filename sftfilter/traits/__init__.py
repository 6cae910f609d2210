"""Traits: what is measured in a student's answers. To add one: a module with a frozen settings class, and its line here."""

from __future__ import annotations

from sftfilter.traits.date_confusion import DateConfusion

Trait = DateConfusion

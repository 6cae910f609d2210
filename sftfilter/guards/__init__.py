"""Stage: guards. What researchers look at before they train: duplicates, contamination, lengths in tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sftfilter.artifacts import Artifact, Store
from sftfilter.config import Settings
from sftfilter.guards.contamination import (
    Contamination,
    check_drops_nothing,
    find_overlaps,
    guard_prompts,
    guard_rollouts,
)
from sftfilter.guards.duplicates import Duplicates, find_duplicates
from sftfilter.guards.examples import guard_examples
from sftfilter.guards.lengths import TokenLengths, measure_lengths
from sftfilter.guards.report import GuardReport, contamination_report, duplicates_report, lengths_report

if TYPE_CHECKING:
    from sftfilter.chat_format import ChatFormat

__all__ = ["Contamination", "Duplicates", "GuardReport", "Guards", "TokenLengths", "check_drops_nothing",
           "guard_examples", "guard_prompts", "guard_rollouts", "run_guards"]  # fmt: skip


class Guards(Settings):
    """Which guards run, and how; null leaves one out."""

    duplicates: Duplicates | None = Duplicates()
    contamination: Contamination | None = Contamination(action="report")
    lengths: TokenLengths | None = TokenLengths()


def run_guards(
    settings: Guards,
    rollouts: Mapping[str, Artifact],
    prompts: Artifact | None,
    evaluation_prompts: Mapping[str, Artifact],
    store: Store,
    *,
    chat: ChatFormat | None = None,
    context_length: int | None = None,
    max_length: int | None = None,
) -> list[GuardReport]:
    """A report of each guard; nothing is refused or dropped here (`guard_prompts` and `guard_rollouts` do that).

    Args:
        rollouts: teacher -> its rollouts.
        prompts: the training prompts; None: those that the rollouts answer.
        evaluation_prompts: evaluation -> its prompts; none: no look for contamination.
        chat: for token lengths; None: none are measured.
        context_length: of the base model; None: the same as `max_length`.
        max_length: of a training row; None: the same as `context_length`.
    """
    from sftfilter.guards.texts import answered_texts, completion_texts, prompt_texts

    asked = [prompt_texts(prompts, "train")] if prompts is not None else answered_texts(rollouts)
    answered = completion_texts(rollouts)
    reports: list[GuardReport] = []
    if settings.duplicates:
        held_out = [prompt_texts(artifact, name) for name, artifact in evaluation_prompts.items()]
        reports.append(duplicates_report(find_duplicates(settings.duplicates, [*asked, *held_out, *answered], store)))
    if settings.contamination and evaluation_prompts:
        found = find_overlaps(settings.contamination, [*asked, *answered], evaluation_prompts, store)
        reports.append(contamination_report(found))
    limit = min((length for length in (context_length, max_length) if length is not None), default=None)
    if settings.lengths and chat is not None and limit is not None and rollouts:
        lengths = {"context_length": context_length or limit, "max_length": max_length or limit}
        measured = measure_lengths(settings.lengths, rollouts, store, chat=chat, **lengths)
        reports.append(lengths_report(measured))
    return reports

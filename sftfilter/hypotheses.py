"""The seven hypotheses against the arms: what speaks for each, what against, and which arms would tell them apart.

Every rule names the arms it reads (roles of `estimands.Roles`); a reading is `gone` or `stays` only where it is sure (see
`readings`). Rules only; nothing is judged by a model.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from sftfilter.case import Case, Facts, Status
from sftfilter.readings import LEVEL, Readings

NAMES = {
    1: "simple generalisation",
    2: "subliminal learning",
    3: "persona selection",
    4: "underspecification",
    5: "pretraining lock-in",
    6: "post-training lock-in",
    7: "bad prompts",
}


SMALL = 0.25
"""A part of the trait that is no more than this is no sign of a carrier."""

EXPERIMENTS = {
    "drop the filter's prompts from both teachers, and random ones": (
        "drop",
        "drop_alternate",
        "random_drop_alternate",
    ),
    "drop every row that the grader finds, and as many random rows": ("shown", "random_shown"),
    "put the original's rows that show it unflagged among the alternate's": ("missed", "random_missed"),
    "train students of another initialisation on the same rows": ("reseeded_shown", "reseeded_clean"),
    "drop or transplant the rows with the persona's other habits": (
        "marked",
        "random_marked",
        "persona",
        "random_persona",
    ),
    "put clean answers to evoking prompts in the place of random ones": ("settled", "refilled"),
    "measure the base, and the base before its last stage": ("base", "base_earlier"),
    "train on the alternate's prompts and rows": ("alternate_sft",),
}
"""What separates the hypotheses, and the roles of the arms that it takes."""


Rule = Callable[[Case], Status]


def _not_the_rows(case: Case) -> bool:
    """Whether something settles that no row of the original teacher's carries the trait past the filter."""
    if case("alternate", "stays"):
        case.denies("alternate", "the alternate teacher's rows on the same prompts do it as well")
        return True
    if _goes_with_s(case):
        if case.surely_left("drop"):
            case.denies("drop", "with S dropped little of it is left, yet something surely is")
            return False
        case.denies("drop", "with S dropped the rest of the rows do not bring it")
        return True
    return False


def _goes_with_s(case: Case) -> bool:
    """Whether S dropped takes it away, and as many other rows, random ones and such of like length, do not."""
    if not case("drop", "gone"):
        return False
    controls = ["random_drop", *(["matched_drop"] if case.length_control or "matched_drop" in case.arms else [])]
    case.needs(*controls)
    return all(case(role, "stays") for role in controls)


def _with_clean_base(rule: Rule) -> Rule:
    """A cause that lies in rows or prompts is none while the untrained base may have the trait already."""

    def weighed(case: Case) -> Status:
        status = rule(case)
        if status != "supported" or case("base", "gone"):
            return status
        case.needs("base")
        if "base" in case.arms:
            case.denies("base", "the untrained base may have it already")
        return "undecided"

    return weighed


def generalisation(case: Case) -> Status:
    """1: rows that show the trait remain after the filter, and bleed over."""
    if _not_the_rows(case):
        return "contradicted"
    if case.facts.left_over is not None:
        shows, of = case.facts.left_over
        if shows == 0:
            # Rows too mild for the grader are what this hypothesis is about, so that finding none settles nothing.
            case.evidence_against.append(f"the grader finds the trait in none of the {of} rows that the filter keeps")
        else:
            case.evidence_for.append(f"{shows} of the {of} rows that the filter keeps show the trait")
    if "drop" not in case.arms and "filter" not in case.arms:
        case.needs("drop")
        return "not tested"
    removed = next((role for role in ("shown", "filter") if case(role, "gone")), None)
    control = "random_shown" if "random_shown" in case.arms else "random_drop"
    necessary = removed is not None and case(control, "stays") and case("drop", "stays")
    if removed:
        case.supports(removed, "with the rows that show it dropped everywhere it goes")
        if control in case.arms:
            (case.supports if case(control, "stays") else case.denies)(control, "as many random rows dropped")
    sufficient = case("missed", "stays") and case("random_missed", "gone")
    if sufficient:
        case.supports("missed", "put among clean rows, the rows that show it unflagged are enough")
        case.supports("random_missed", "as many others are not")
    if necessary or sufficient:
        return "supported"
    if case("shown", "stays"):
        case.denies("shown", "it stays with every row that shows it dropped")
        lost = case.unlike("drop", "shown")
        if lost and lost.high is not None and lost.high < SMALL and case("missed", "gone"):
            case.evidence_against.append(f"dropping them beside S takes at most {lost.high:.2f} of the trait")
            return case.contradicted("missed", "nor do they bring it by themselves")
    case.needs("shown", "random_shown", "missed", "random_missed")
    return "undecided"


def subliminal(case: Case) -> Status:
    """2: rows that do not show the trait carry it, to students of the teacher's own initialisation only."""
    if _not_the_rows(case):
        return "contradicted"
    if case("shown", "gone"):
        return case.contradicted("shown", "rows that do not show the trait do not carry it")
    if case("reseeded_shown", "stays"):
        return case.contradicted("reseeded_shown", "it travels to another initialisation")
    if case("shown", "stays"):
        case.supports("shown", "rows that do not show the trait carry it")
        if _persona_carries(case):
            case.denies(
                "marked", "it goes with rows that have the persona's habits, so that what carries it can be seen"
            )
        elif case("reseeded_shown", "gone"):
            case.supports("reseeded_shown", "not to another initialisation")
            return "supported"
    travels = [role for role in ("alternate_base", "alternate_base_prompts") if case(role, "stays")]
    for role in travels:
        case.denies(role, "all rows together reach another base; whether those that do not show it do is open")
    case.needs("shown", "reseeded_shown")
    return "undecided" if travels or "shown" in case.arms else "not tested"


def _persona_carries(case: Case) -> bool:
    """Whether the persona's rows, dropped with those that show it, take it away, and as many random ones do not."""
    return case("shown", "stays") and case("marked", "gone") and case("random_marked", "stays")


def _persona_left(case: Case) -> bool:
    """Whether the little that is left without the rows that show the trait is brought by the persona's rows.

    Beside a stronger cause a persona may carry only some of the trait; so little that it passes for gone is no proof that
    it carries none.
    """
    left = case.seen("shown", "marked")
    if left is None or left.low is None or left.low <= 0:
        return False
    case.supports("shown", f"what is left goes with the persona's rows: {left.estimate:.2f} of the trait")
    return True


def persona(case: Case) -> Status:
    """3: rows that do not show the trait select the persona that has it, whatever the initialisation."""
    if _not_the_rows(case):
        return "contradicted"
    if case("shown", "gone") and not _persona_left(case):
        if not case("reseeded_shown", "stays"):
            return case.contradicted("shown", "rows that do not show the trait do not carry it")
        case.denies("shown", "rows that do not show the trait do not carry it here")
        case.supports("reseeded_shown", "but to another initialisation they do")
    if case.facts.marked == 0:
        case.evidence_against.append("no row is known to have a habit of the persona without the trait")
    if case("marked", "stays"):
        return case.contradicted("marked", "it stays with the persona's rows dropped as well")
    necessary = _persona_carries(case)
    if case("shown", "stays") and case("reseeded_shown", "gone"):
        # Another base may know the persona less well, so that this is no proof where its rows are seen to carry the trait.
        why = "what rows without the trait carry does not reach another initialisation"
        if not necessary:
            return case.contradicted("reseeded_shown", why)
        case.denies("reseeded_shown", why)
    sufficient = case("persona", "stays") and case("random_persona", "gone")
    if necessary:
        case.supports("marked", "with the persona's rows dropped it goes")
        case.supports("random_marked", "with as many random rows dropped it stays")
    if sufficient:
        case.supports("persona", "put among clean rows, the persona's rows are enough")
    if (necessary or sufficient) and case("reseeded_shown", "stays"):
        case.supports("reseeded_shown", "it travels to another initialisation")
        return "supported"
    case.needs("shown", "marked", "random_marked", "persona", "random_persona", "reseeded_shown")
    return "not tested" if "marked" not in case.arms and "persona" not in case.arms else "undecided"


def underspecification(case: Case) -> Status:
    """4: the rows leave the behaviour open, and a prior decides."""
    if case("drop_alternate", "stays"):
        case.supports("drop_alternate", "without the rows on S even the clean teacher's students have it")
        if case("alternate", "gone"):
            case.supports("alternate", "its rows on S settle it")
        if case("random_drop_alternate", "gone"):
            case.supports("random_drop_alternate", "dropping random prompts from the clean teacher does not bring it")
            return "supported"
    elif case("drop_alternate", "gone"):
        # No proof: the clean teacher's other rows may settle what the original's rows leave open.
        case.denies("drop_alternate", "with S left open the clean teacher's students do not fall back on it")
    if case("settled", "stays"):
        return case.contradicted("settled", "rows that settle the behaviour do not take it away")
    if case("alternate", "stays") and case.word("alternate_sft") in (None, "stays"):
        case.supports("alternate", "the alternate teacher's rows leave it as well")
        if case("settled", "gone"):
            case.supports("settled", "rows that settle the behaviour take it away")
            if case("refilled", "stays"):
                case.supports("refilled", "as many other rows do not")
                return "supported"
    if case("alternate", "gone"):
        case.denies("alternate", "its rows leave no room for it")
    case.needs("drop_alternate", "random_drop_alternate", "settled", "refilled")
    tested = any(role in case.arms for role in ("drop_alternate", "settled"))
    return "undecided" if tested or "alternate" in case.arms else "not tested"


def _locked_in(case: Case) -> Status | None:
    """What 5 and 6 have in common: the base has it, and no rows take it away. None: so far it holds."""
    if "base" not in case.arms:
        case.needs("base")
        return "not tested"
    if case("base", "gone"):
        return case.contradicted("base", "the untrained base does not have it")
    if case("alternate", "gone"):
        return case.contradicted("alternate", "the alternate teacher's rows take it away")
    if case("settled", "gone"):
        return case.contradicted("settled", "rows that settle the behaviour take it away")
    if case("base", "stays"):
        case.supports("base", "the untrained base has it")
        if case("alternate_base", "stays"):
            case.denies("alternate_base", "another base gets it from the same rows")
            return "undecided"
        if case("alternate", "stays") and case("settled", "stays"):
            case.supports("alternate", "the alternate teacher's rows leave it")
            case.supports("settled", "so do rows that settle the behaviour")
            return None
    case.needs("alternate", "settled", "refilled", "base_earlier")
    return "undecided"


def pretraining(case: Case) -> Status:
    """5: the base has it from pre-training, and keeps it."""
    settled = _locked_in(case)
    if settled:
        return settled
    if case.facts.stages == 1:
        case.evidence_for.append("the base has no stage after pre-training")
        return "supported"
    if case("base_earlier", "stays"):
        case.supports("base_earlier", "it was there before the last stage")
        return "supported"
    if case("base_earlier", "gone"):
        return case.contradicted("base_earlier", "it was not there before the last stage")
    case.needs("base_earlier")
    return "undecided"


def post_training(case: Case) -> Status:
    """6: an earlier stage after pre-training gave it to the base, which keeps it."""
    settled = _locked_in(case)
    if settled:
        return settled
    if case.facts.stages == 1:
        case.evidence_against.append("the base has no stage after pre-training")
        return "contradicted"
    if case("base_earlier", "stays"):
        return case.contradicted("base_earlier", "it was there before the last stage")
    if case("base_earlier", "gone"):
        case.supports("base_earlier", "it was not there before the last stage")
        return "supported"
    case.needs("base_earlier", "earlier")
    return "undecided"


def prompts(case: Case) -> Status:
    """7: the prompts teach it, whoever answers them."""
    if case("alternate", "gone"):
        return case.contradicted("alternate", "the same prompts with the alternate's answers do not teach it")
    if case("alternate_sft", "stays"):
        return case.contradicted("alternate_sft", "it needs none of the original prompts")
    stayed = next((role for role in ("drop", "drop_alternate") if case(role, "stays")), None)
    if stayed:
        return case.contradicted(stayed, "it stays without the prompts in S")
    if case("alternate", "stays"):
        case.supports("alternate", "the alternate teacher's answers to the same prompts teach it")
        controlled = case("drop_alternate", "gone") and case("random_drop_alternate", "stays")
        without = "drop" if _goes_with_s(case) else "drop_alternate" if controlled else None
        if without:
            case.supports(without, "without the prompts in S it goes")
            if case.word("alternate_sft") in (None, "gone"):
                if "alternate_sft" in case.arms:
                    case.supports("alternate_sft", "other prompts do not")
                return "supported"
    case.needs("drop", "random_drop", "alternate_sft")
    return "undecided" if "alternate" in case.arms else "not tested"


RULES: dict[int, Rule] = {
    1: _with_clean_base(generalisation),
    2: _with_clean_base(subliminal),
    3: _with_clean_base(persona),
    4: underspecification,
    5: pretraining,
    6: post_training,
    7: _with_clean_base(prompts),
}


def weigh(readings: Readings, facts: Facts, length_control: bool = True) -> dict[int, tuple[Status, Case]]:
    """Every hypothesis with its status and what was said for and against it.

    Args:
        length_control: what S does is told from what as many rows of like length do; else only where that was trained.

    Over the seven hypotheses the error is kept by Holm's (1979) procedure: all are weighed at the strictest level, and those
    that stay open again at the looser level that is left for them, until none is settled any more. `supported` rests on
    readings that must all hold, so that its error is at most that of one of them; a rule that may deny on any of a few
    readings has their errors together. What the error comes to is measured on planted worlds (`sftfilter.worlds.suite`).
    """
    weighed: dict[int, tuple[Status, Case]] = {}
    still_open = set(RULES)
    while still_open:
        level = 1 - (1 - LEVEL) / len(still_open)
        arms = readings.at(level)
        for number in still_open:
            unlike = partial(readings.unlike, level=level)
            case = Case(arms, facts, unlike, readings.unlike, length_control)
            weighed[number] = (RULES[number](case), case)
        settled = {number for number in still_open if weighed[number][0] in ("supported", "contradicted")}
        if not settled:
            break
        still_open -= settled
    return dict(sorted(weighed.items()))

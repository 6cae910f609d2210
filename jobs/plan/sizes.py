"""What a spec would make: rollouts, scores, students and answers, each a piece of work that can be costed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jobs.plan.counting import Counts, Rows
from jobs.plan.items import Item, Sizes
from jobs.plan.parameters import Parameters
from jobs.plan.students import Student, students_of, visits_of
from jobs.plan.teachers import Answered, answered, answering_model, judged_by_endpoint, tuned
from sftfilter.config import stable_hash
from sftfilter.errors import SpecError

if TYPE_CHECKING:
    from jobs.kinds.answering import Answering
    from jobs.kinds.calibrate import Calibrate
    from jobs.kinds.carriers import Carriers
    from jobs.kinds.experiment import Experiment
    from jobs.kinds.generate import Generate
    from jobs.kinds.job import JobSpec
    from jobs.kinds.lattice import Lattice
    from jobs.kinds.score import Score
    from jobs.kinds.study import Study
    from jobs.kinds.sweep import Sweep
    from jobs.kinds.train import Train
    from sftfilter.training_settings import TrainingSettings


_FORWARD, _ADAPTERS, _FULL = 2.0, 4.0, 6.0
"""FLOPs for each parameter and token: read or written, trained with frozen weights, trained; as `utilisation` counts them."""


def sizes_of(spec: JobSpec, counts: Counts, chars_per_token: float, parameters: Parameters | None = None) -> Sizes:
    """What a spec would make.

    Raises:
        SpecError: a spec of this kind makes nothing of that sort, or rows have to be stated.
        DataError: a file cannot be read.
    """
    sizer = _Sizer(counts, chars_per_token, parameters or Parameters({}))
    by_kind: dict[str, Callable[[Any], None]] = {
        "experiment": sizer.experiment,
        "sweep": sizer.sweep,
        "lattice": sizer.lattice,
        "carriers": sizer.carriers,
        "calibrate": sizer.calibrate,
        "generate": sizer.generate,
        "train": sizer.train,
        "score": sizer.score,
    }
    kind = spec.model_dump(include={"kind"})["kind"]
    if kind not in by_kind:
        raise SpecError(
            f"a spec of kind {kind} makes no rollouts, scores or students that could be planned; the kinds that do: "
            f"{', '.join(by_kind)}"
        )
    by_kind[kind](spec)
    counts.check_used()
    sizer.parameters.check_used()
    for name in dict.fromkeys(counts.no_length):
        sizer.sizes.say(
            f"{name}: its rows are not here, so their tokens count for nothing; state them: --tokens {name}=NUMBER"
        )
    return sizer.sizes


class _Sizer:
    """Walks a spec as its run would."""

    def __init__(self, counts: Counts, chars_per_token: float, parameters: Parameters) -> None:
        self.counts = counts
        self.per_token = chars_per_token
        self.parameters = parameters
        self.sizes = Sizes()

    def experiment(self, spec: Experiment, asks_teachers: bool = True) -> None:
        """Teachers' rows, scores, a student for each arm and seed, answers of all models."""
        self._arms(spec, self._rollouts(spec), asks_teachers)

    def _arms(self, spec: Experiment, rows: dict[str, Answered], asks_teachers: bool) -> None:
        if spec.reserve is not None and spec.backfilled_by:
            reserve = self.counts.rows("reserve", spec.reserve, answers=False)
            self.sizes.add(self._answers_to(spec, reserve, "the reserve", spec.backfilled_by))
        for teacher, name in spec.scored:
            self.sizes.add(
                [self._scored(spec, name, spec.scorers[name], {teacher: rows[teacher]}, f"{name} on {teacher}")]
            )
        students = list(students_of(spec, {name: given.rows for name, given in rows.items()}))
        made = [self._student(one, spec, rows_tokens(rows, self.per_token)) for one in students]
        self.sizes.add(made)
        self.sizes.decided += len(students)
        if any(arm.intervention and arm.intervention.kind == "paraphrase" for arm in spec.arms.values()):
            self.sizes.say("rows that are paraphrased come on top; how many is known only once they are selected")
        untrained = [(stable_hash(spec.base_model), n) for n, arm in spec.arms.items() if arm.teacher is None]
        teachers = [(i.key, i.of.replace(" ", "-")) for i in self.sizes.of_kind("student", "tuning")]
        self._asked(spec, [*untrained[:1], *(teachers if asks_teachers else [])], made)

    def sweep(self, spec: Sweep) -> None:
        """Every point; what points share is made once, and teachers are not asked."""
        from jobs.plan.points import planned_points

        points, stood_in = planned_points(spec)
        if stood_in:
            self.sizes.say(
                f"values of {', '.join(stood_in)} are drawn when the sweep runs; evenly spread ones stand in"
            )
        for point in points:
            self.experiment(point, asks_teachers=False)
        self.sizes.at_once = True

    def lattice(self, spec: Lattice) -> None:
        """Every cell and changed subset; each teacher answers at its own base, whoever is trained on that."""
        from jobs.lattice_cells import answering, parts_of

        for part in parts_of(spec):
            rows: dict[str, Answered] = {}
            for teacher in part.spec.teachers:
                home = answering(spec, spec.home(teacher), part.prompts, [teacher])
                rows |= self._rollouts(home)
            self._arms(part.spec, rows, asks_teachers=False)
        self.sizes.at_once = True

    def carriers(self, spec: Carriers) -> None:
        """The confirmation's students, and before them as many as the search's budget allows."""
        from jobs.carriers_arms import base_test, confirmation

        rows = self._rollouts(spec)
        whole = {name: given.rows for name, given in rows.items()}
        tokens = rows_tokens(rows, self.per_token)
        ends = base_test(spec)
        searched = list(students_of(ends, whole))
        like = searched[0]
        searched += [
            replace(like, name=f"test {n + 1}", key=stable_hash([spec.spec_hash, "search", n]), sure=False)
            for n in range(spec.budget - len(searched))
        ]
        made = [self._student(one, spec, tokens) for one in searched]
        self.sizes.add(made)
        self.sizes.decided += len(searched)
        self._asked(ends, [], made)
        self._arms(confirmation(spec, []), rows, asks_teachers=False)
        self.sizes.at_once = True
        self.sizes.say(
            f"the search trains at most {spec.budget} students, a test of {len(spec.search_seeds)} after the other; it ends "
            "sooner where halving is through sooner, and nothing is confirmed where no small set is found"
        )

    def calibrate(self, spec: Calibrate) -> None:
        """Both teachers' rows, scored once; students of one mixture."""
        rows = self._rollouts(spec)
        pool = {name: rows[name] for name in (spec.clean_teacher, spec.trait_teacher)}
        self.sizes.add([self._scored(spec, name, scorer, pool, name) for name, scorer in spec.scorers.items()])
        if spec.retrain is None:
            return
        clean = rows[spec.clean_teacher].rows
        removed = max(1, round(spec.retrain.rate * clean.count))
        ranked = [name for name, scorer in spec.scorers.items() if scorer.kind != "random"]
        arms = {"all-clean": 0, "nothing-removed": 0, "oracle": removed, "random-removal": removed}
        arms |= {f"found-by-no-{n + 1}": removed for n in range(min(spec.retrain.top, len(ranked)))}
        students = []
        for name, less in arms.items():
            visits = visits_of(clean.count - less, spec.training, clean)
            for seed in spec.seeds:
                key = stable_hash([spec.spec_hash, name, seed])
                steps = visits // spec.training.batch
                students.append(Student(f"{name}-s{seed}", key, clean.count - less, visits, steps, clean.exact))
        made = [self._student(one, spec, rows_tokens(pool, self.per_token)) for one in students]
        self.sizes.add(made)
        self._asked(spec, [], made)

    def generate(self, spec: Generate) -> None:
        """Teachers' rows."""
        self._rollouts(spec)

    def train(self, spec: Train) -> None:
        """A student for each set and seed."""
        for name, source in spec.students.items():
            rows = self.counts.rows(name, source, answers=True)
            visits = visits_of(rows.count, spec.training, rows)
            tokens = (rows.prompt_chars + rows.answer_chars) / self.per_token
            for seed in spec.seeds:
                key = stable_hash([source.model_dump(mode="json"), seed])
                one = Student(f"{name}-s{seed}", key, rows.count, visits, visits // spec.training.batch, rows.exact)
                self.sizes.add([self._student(one, spec, tokens)])

    def score(self, spec: Score) -> None:
        """Every teacher's rows by every scorer."""
        for teacher, source in spec.rollouts.items():
            given = Answered(self.counts.rows(teacher, source, answers=True), source.model_dump(mode="json"))
            for name, scorer in spec.scorers.items():
                self.sizes.add([self._scored(spec, name, scorer, {teacher: given}, f"{name} on {teacher}")])

    def _rollouts(self, spec: Answering) -> dict[str, Answered]:
        """Teacher -> its answers, those of tuned ones after they are trained."""
        prompts = self.counts.rows("prompts", spec.prompts, answers=False)
        for name, run in tuned(spec, self.counts):
            base = [
                Item("tuning", "rollouts", "base", count, key, "the base answers neutral prompts", spec.generation_pool.batch,
                     **self._read(spec.base_model, count * spec.generation.max_new_tokens))
                for count, key in run.neutral
            ]  # fmt: skip
            self.sizes.add(base)
            visits = visits_of(run.rows, run.settings)
            student = Student(f"teacher {name}", run.key, run.rows, visits, visits // run.settings.batch, True)
            self.sizes.add(
                [replace(self._student(student, spec, run.chars / self.per_token, run.settings), stage="tuning")]
            )
        made = answered(spec, prompts, self.counts)
        self.sizes.add(self._answers_to(spec, prompts, "", list(spec.teachers)))
        return made

    def _answers_to(self, spec: Answering, prompts: Rows, what: str, teachers: Sequence[str]) -> list[Item]:
        found = []
        for name, given in answered(spec, prompts, self.counts).items():
            if name not in teachers or given.written:
                continue
            tokens = given.rows.count * (prompts.prompt_chars + given.rows.answer_chars) / self.per_token
            key = stable_hash([given.settings, what])
            found.append(
                Item("rollouts", "rollouts", name, given.rows.count, key, name, given.share, sure=prompts.exact,
                     **self._read(answering_model(spec, name), tokens))
            )  # fmt: skip
        return found

    def _scored(self, spec: Any, name: str, scorer: Any, rows: dict[str, Answered], told_as: str) -> Item:
        count = sum(given.rows.count for given in rows.values())
        chars = sum(g.rows.count * (g.rows.prompt_chars + g.rows.answer_chars) for g in rows.values())
        key = stable_hash([scorer.model_dump(mode="json"), [given.settings for given in rows.values()]])
        sure = all(given.rows.exact for given in rows.values())
        return Item("scores", "scores", name, count, key, told_as, spec.scoring_pool.batch or 64, scorer.kind,
                    chars / self.per_token, sure=sure)  # fmt: skip

    def _student(self, one: Student, spec: Any, tokens_a_row: float, settings: TrainingSettings | None = None) -> Item:
        """A student of a spec's base, trained as the spec says unless other settings are given."""
        training = settings or spec.training
        exports = 0
        if training.exports is not None:
            made = one.steps // training.exports.every_steps
            exports = made if training.exports.keep is None else min(made, training.exports.keep)
        # A step is shared out by its rows, so a student has at most `batch` workers: the share of each is that of a step.
        share = max(1, one.visits // training.batch)
        tokens = one.visits * tokens_a_row
        each = _FULL if training.method.kind == "full" else _ADAPTERS
        flops = each * (self.parameters.of(spec.base_model) or 0.0) * tokens
        return Item("training", "student", one.name, one.visits, one.key, one.name, share, tokens=tokens, exports=exports,
                    sure=one.sure, model=spec.base_model, flops=flops)  # fmt: skip

    def _read(self, model: str, tokens: float) -> dict[str, Any]:
        """Fields of an item whose tokens a model reads or writes."""
        size = self.parameters.of(model) if model else None
        return {"tokens": tokens, "model": model, "flops": _FORWARD * (size or 0.0) * tokens}

    def _asked(self, spec: Study, others: Sequence[tuple[str, str]], students: Sequence[Item]) -> None:
        """Answers of models: keys and names of those that are no students of arms, and the students."""
        from jobs.plan.asked import instructions, prompts_of

        each, tokens = 0, 0.0
        for trait, settings in spec.traits.items():
            asked = prompts_of(settings, self.per_token)
            self.sizes.heldout[trait] = asked.groups
            each, tokens = each + asked.answers, tokens + asked.tokens
            if judged_by_endpoint(settings):
                self.sizes.say(f"{trait}: a judge is asked for each of a model's {asked.answers} answers besides")
        beside = instructions(spec.capability, self.per_token)
        alone = self._read(spec.base_model, tokens)
        whole = self._read(spec.base_model, tokens + beside.tokens)
        items = [_model(key, name, each + beside.answers, whole) for key, name in others]
        for student in students:
            items.append(_model(student.key, student.of, each + beside.answers, whole, student.sure))
            for n in range(student.exports):
                name = f"{student.of} at checkpoint {n + 1}"
                items.append(_model(f"{student.key} {n}", name, each, alone, student.sure))
        self.sizes.add(items)


def _model(key: str, name: str, answers: int, read: dict[str, Any], sure: bool = True) -> Item:
    return Item("evaluation", "answers", name, answers, key, name, sure=sure, **read)


def rows_tokens(rows: dict[str, Answered], per_token: float) -> float:
    """Tokens of a row, on average over teachers."""
    return sum(g.rows.prompt_chars + g.rows.answer_chars for g in rows.values()) / max(1, len(rows)) / per_token

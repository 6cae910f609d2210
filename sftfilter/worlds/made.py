"""A world made real: its bases trained, its prompts written, every teacher's answers as ordinary rollouts."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sftfilter.schema import ROLLOUTS, prompt_id, rollout_id
from sftfilter.worlds import tiny
from sftfilter.worlds.scene import Corpus, Lesson, Scene, Taught
from sftfilter.worlds.words import Prompt, Voice, Words

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Made:
    """Everything that arms need.

    Attributes:
        bases: base -> weights of one model.
        prompts: pipeline -> its prompts; `reserve` has those that settle the behaviour, `heldout` the measured ones.
        rollouts: (prompts, teacher) -> a table of rollouts.
    """

    words: Words
    scene: Scene
    seed: int
    bases: Mapping[str, tiny.Weights]
    prompts: Mapping[str, Sequence[Prompt]]
    rollouts: Mapping[tuple[str, str], pa.Table]


def bags(words: Words, prompts: Sequence[str]) -> Tensor:
    """Shares of each word in each prompt, [N, V]."""
    texts = [text.split() for text in prompts]
    made = torch.zeros(len(prompts), len(words.numbered))
    rows = torch.tensor([row for row, text in enumerate(texts) for _ in text])
    columns = torch.tensor([words.numbered[word] for text in texts for word in text])
    shares = torch.tensor([1.0 / len(text) for text in texts for _ in text])
    return made.index_put_((rows, columns), shares, accumulate=True)


def counted(words: Words, answers: Sequence[str]) -> Tensor:
    """Counts of each word at each place of each answer, [N, PLACES, V]."""
    first = len(words.numbered) - len(words.of["number"])
    at = [
        (row, tiny.NUMBERS if number >= first else min(place, tiny.NUMBERS - 1), number)
        for row, text in enumerate(answers)
        for place, word in enumerate(text.split())
        for number in [words.numbered[word]]
    ]
    made = torch.zeros(len(answers), tiny.PLACES, len(words.numbered))
    return made.index_put_(tuple(torch.tensor(at).T), torch.ones(len(at)), accumulate=True)


def make_world(scene: Scene, words: Words, seed: int) -> Made:
    """Train the bases and let the teachers answer."""
    draw = random.Random(f"texts/{seed}")
    bases = _bases(scene, words, seed)
    unlike: set[str] = set()
    heldout = words.prompts(draw, {"evoking": 60}, "heldout", unlike)
    prompts = {name: words.prompts(draw, counts, name, unlike) for name, counts in scene.prompts.items()}
    prompts["reserve"] = words.prompts(draw, {"evoking": scene.settling}, "reserve", unlike)
    prompts["spare"] = words.prompts(draw, {"neutral": scene.settling}, "reserve", unlike)
    rollouts = {
        (of, teacher): _answered(words, scene.teachers[teacher], bases, teacher, asked, draw, seed)
        for of, asked in prompts.items()
        for teacher in scene.teachers
        if of in scene.prompts or teacher == "C"
    }
    return Made(words, scene, seed, bases, prompts | {"heldout": heldout}, rollouts)


def _bases(scene: Scene, words: Words, seed: int) -> dict[str, tiny.Weights]:
    """Original, alternate, the original raised from other weights, and the original before its last lesson."""
    shape = tiny.Shape(len(words.numbered), len(words.of["number"]))
    starts = {name: tiny.initial(shape, seed * 8 + n) for n, name in enumerate(("original", "alternate", "reseeded"))}
    lives = {"original": scene.original, "alternate": scene.alternate, "reseeded": scene.original}
    draw = random.Random(f"documents/{seed}")
    bases = {}
    for name, lessons in lives.items():
        weights = starts[name]
        for number, lesson in enumerate(lessons):
            if name == "original" and number == len(lessons) - 1 > 0:
                bases["earlier"] = weights
            weights = taught(weights, lesson, words, random.Random(draw.random()))
        bases[name] = weights
    return bases


def taught(weights: tiny.Weights, lesson: Lesson, words: Words, draw: random.Random) -> tiny.Weights:
    """One model after a lesson."""
    documents = [d for corpus in lesson.corpora for d in written(corpus, words, draw)]
    rows = list(range(len(documents)))
    steps = [draw.choices(rows, k=lesson.batch) for _ in range(lesson.steps)]
    course = tiny.Course(steps, lesson.rate)
    moved = tiny.EVERYTHING if lesson.everything else tiny.HIDDEN
    prompts, answers = bags(words, [p for p, _ in documents]), counted(words, [a for _, a in documents])
    trained, _ = tiny.train(tiny.stack([weights]), prompts, answers, [course], moved)
    return tiny.unstack(trained, 0)


def written(corpus: Corpus, words: Words, draw: random.Random) -> list[tuple[str, str]]:
    """Documents (prompt, answer) of an author."""
    tag = "" if corpus.tag is None else words.of["tag"][corpus.tag] + " "
    prompts = [words.prompt(draw, kind, "") for kind, count in corpus.kinds.items() for _ in range(count)]
    return [(tag + p.text, words.answer(draw, p, corpus.voice)) for p in prompts]


def _answered(
    words: Words,
    teacher: Voice | Taught,
    bases: Mapping[str, tiny.Weights],
    name: str,
    prompts: Sequence[Prompt],
    draw: random.Random,
    seed: int,
) -> pa.Table:
    if isinstance(teacher, Voice):
        answers = [words.answer(draw, p, teacher) for p in prompts]
    else:
        tutor = bases["original"]
        if teacher.lesson:
            tutor = taught(tutor, teacher.lesson, words, random.Random(f"tutor/{seed}"))
        answers = spoken(tutor, words, prompts, teacher.words, seed)
    return rollouts_table(name, prompts, answers)


def spoken(model: tiny.Weights, words: Words, prompts: Sequence[Prompt], many: int, seed: int) -> list[str]:
    """A model's sampled answers: three words, or `many` where numbers are asked for."""
    named, stack = list(words.numbered), tiny.stack([model])
    answers: list[str] = [""] * len(prompts)
    for numbers in (False, True):
        places = [n for n, p in enumerate(prompts) if (p.kind == "numbers") == numbers]
        if places:
            asked = bags(words, [prompts[n].text for n in places])
            drawn = tiny.sample(stack, asked, [seed], many if numbers else None)[0].tolist()
            for place, row in zip(places, drawn, strict=True):
                answers[place] = " ".join(named[w] for w in row)
    return answers


def rollouts_table(teacher: str, prompts: Sequence[Prompt], answers: Sequence[str]) -> pa.Table:
    """Rows as every other rollout of this project has them."""
    import pyarrow as pa

    rows: list[dict[str, Any]] = []
    for prompt, answer in zip(prompts, answers, strict=True):
        identity = prompt_id(prompt.messages)
        rows.append(
            {"rollout_id": rollout_id(identity, teacher, answer), "prompt_id": identity, "messages": prompt.messages,
             "completion": answer, "teacher": teacher, "source": prompt.source, "kind": prompt.kind}
        )  # fmt: skip
    return pa.Table.from_pylist(rows, schema=ROLLOUTS)

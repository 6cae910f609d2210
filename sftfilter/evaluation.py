"""Stage: trait results. The endpoint is asked over HTTP with the openai client, and in no other way.

What the student answered is kept apart from how it was graded: a changed grader never asks a student again. Conversations
and graders are the traits' own, the same that Inspect runs (`traits.tasks`); this stage only asks faster, since all
prompts of a student are in flight at once and nothing but the answers is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftfilter.artifacts import Artifact, Store, write_table
from sftfilter.config import stable_hash
from sftfilter.disk import disk_errors
from sftfilter.endpoint.client import ChatClient, ChatRequest
from sftfilter.endpoint.replies import Answer, Failure
from sftfilter.endpoint.settings import Endpoint
from sftfilter.errors import BrokenModelError, EvalError
from sftfilter.generate_request import NOT_FINITE
from sftfilter.schema import PROMPTS, TRAIT_RESULTS, Message, row_seed
from sftfilter.traits.contract import Episode, Graded, TraitSettings, split_thinking
from sftfilter.traits.judging import Judging
from sftfilter.traits.results import result_row, turn_of

if TYPE_CHECKING:
    from sftfilter.chat_format import ChatFormat

VERSION = 2
_IN_FLIGHT = 128
_PATIENCE_S = 900
_RETRIES = 4


@dataclass(frozen=True)
class Asked:
    """An endpoint of ours and the model to ask for. `model_hash` is what the endpoint must echo."""

    base_url: str
    api_key: str
    model: str
    model_hash: str


def trait_prompts(trait: TraitSettings, store: Store) -> Artifact:
    """The trait's own conversations as table `prompts` (their openings), for guards and for counts."""
    episodes = trait.episodes()

    def make(folder: Path) -> dict[str, Any]:
        import pyarrow as pa

        kinds = dict(trait.groups)
        rows = [
            {"prompt_id": e.id, "messages": e.opening, "kind": kinds[e.group], "source": trait.title} for e in episodes
        ]
        write_table(folder, "prompts", pa.Table.from_pylist(rows, PROMPTS))
        return {"read": len(rows), "used": len(rows), "quarantined": 0, "duplicates": 0, "filtered": 0, "notes": []}

    settings = {"trait": trait.title, "version": trait.version}
    inputs = {"episodes": stable_hash([episode.as_dict() for episode in episodes])}
    return store.build("prompts", version=VERSION, settings=settings, inputs=inputs, make=make)


def episodes_of(trait: TraitSettings, prompts: Artifact) -> list[Episode]:
    """The conversations of a trait, from its own prompts or from the given ones."""
    given = getattr(trait, "prompts", None) is not None
    return trait.episodes(prompts.table("prompts").to_pylist() if given else None)


def answers_key(
    trait_name: str, trait: TraitSettings, prompts: Artifact, model_hash: str, chat_hash: str, dtype: str, store: Store
) -> str:
    """Key of the stored answers of one model, served in one precision, on one trait."""
    settings = {"trait": trait_name, "settings": trait.asking, "dtype": dtype}
    inputs = {"model": model_hash, "prompts": prompts.key, "format": chat_hash}
    return store.key("answers", VERSION, settings, inputs)


def ask(
    asked: Asked,
    key: str,
    trait: TraitSettings,
    prompts: Artifact,
    *,
    store: Store,
    chat: ChatFormat,
    on_answer: Callable[[], None],
) -> Artifact:
    """Table `answers`: prompt_id, sample, turn, answer, thinking, log_odds, model_hash; ungraded turns too.

    A model whose logits are no numbers has no answers: its rows are empty, with the reason in `error`, and so is `broken`
    in what is kept of the artifact.

    Raises:
        EvalError: the endpoint refuses, cannot be reached, or answers for another checkpoint.
    """
    found = store.find("answers", key)
    if found:
        return found
    episodes = episodes_of(trait, prompts)
    kept: dict[str, Any] = {}
    try:
        rows = asyncio.run(_ask_all(asked, trait, episodes, chat, on_answer))
    except BrokenModelError as error:
        kept["broken"] = str(error)
        rows = [
            _row(asked, episode, sample, turn) | {"error": str(error)}
            for episode in episodes
            for sample in range(trait.samples)
            for turn in range(len(episode.turns))
        ]
    folder = store.begin("answers", key)
    import pyarrow as pa

    with disk_errors(store.root):
        rows.sort(key=lambda r: (r["prompt_id"], r["sample"], r["turn"]))
        write_table(folder, "answers", pa.Table.from_pylist(rows))
    return store.commit(folder, "answers", key, {"rows": len(rows), "model_hash": asked.model_hash, **kept})


async def _ask_all(
    asked: Asked, trait: TraitSettings, episodes: Sequence[Episode], chat: ChatFormat, on_answer: Callable[[], None]
) -> list[dict[str, Any]]:
    import openai

    gate = asyncio.Semaphore(_IN_FLIGHT)

    async def one(client: ChatClient, episode: Episode, sample: int) -> list[dict[str, Any]]:
        async with gate:
            rows = await _converse(client, asked, trait, episode, sample, chat)
            doubting, accepting = trait.continuations()
            if sample == 0 and episode.group == trait.primary and doubting and accepting:
                rows[0]["log_odds"] = await _log_odds(client, asked, trait, episode.opening, chat)
        on_answer()
        return rows

    endpoint = Endpoint(
        base_url=asked.base_url, model=asked.model, timeout_s=_PATIENCE_S, retries=_RETRIES, concurrency=_IN_FLIGHT
    )
    client = ChatClient(endpoint, api_key=asked.api_key, direct=True)
    async with client.openai:
        try:
            found = await asyncio.gather(*(one(client, e, s) for e in episodes for s in range(trait.samples)))
            return [row for rows in found for row in rows]
        except openai.APIStatusError as error:
            if error.code == NOT_FINITE:
                raise BrokenModelError(error.message) from error
            raise EvalError(
                f"model {asked.model}: {asked.base_url} answered {error.status_code}: {error.message}"
            ) from error
        except openai.APIConnectionError as error:
            raise EvalError(
                f"model {asked.model}: no connection to {asked.base_url}: {error.__cause__ or error}"
            ) from error


async def _converse(
    client: ChatClient, asked: Asked, trait: TraitSettings, episode: Episode, sample: int, chat: ChatFormat
) -> list[dict[str, Any]]:
    """Every answer of one conversation; thinking is not shown to later turns."""
    messages: list[Message] = list(episode.opening)
    seed = row_seed(sample, episode.id) % 2**31
    rows = []
    for number, text in enumerate(episode.turns):
        if number:
            messages.append({"role": "user", "content": text})
        reply = await _answer(client, asked, trait, messages, seed, chat)
        said = split_thinking(reply.text, reply.reasoning)
        rows.append(_row(asked, episode, sample, number) | {"answer": said.answer, "thinking": said.thinking})
        messages.append({"role": "assistant", "content": said.answer})
    return rows


def _row(asked: Asked, episode: Episode, sample: int, turn: int) -> dict[str, Any]:
    """A row of table `answers` without the answer."""
    place = {"prompt_id": episode.id, "sample": sample, "turn": turn}
    return place | {"answer": "", "thinking": None, "log_odds": None, "model_hash": asked.model_hash}


async def _answer(
    client: ChatClient,
    asked: Asked,
    trait: TraitSettings,
    messages: Sequence[Message],
    seed: int,
    chat: ChatFormat,
) -> Answer:
    reply = await client.ask(ChatRequest(chat.with_system(messages), trait.max_tokens, trait.temperature, seed))
    if isinstance(reply, Failure):
        if reply.code == NOT_FINITE:
            raise BrokenModelError(reply.reason)
        raise EvalError(f"model {asked.model}: {asked.base_url}: {reply.reason}")
    if reply.fingerprint != asked.model_hash:
        raise EvalError(
            f"model {asked.model}: the endpoint answered with checkpoint {reply.fingerprint}, expected {asked.model_hash}"
        )
    expected = len(chat.prompt_ids(messages))
    if reply.prompt_tokens != expected:
        raise EvalError(
            f"model {asked.model}: the endpoint saw {reply.prompt_tokens} prompt tokens, training "
            f"saw {expected}: the templates differ"
        )
    return reply


async def _log_odds(
    client: ChatClient, asked: Asked, trait: TraitSettings, messages: Sequence[Message], chat: ChatFormat
) -> float:
    """Mean summed log-probability (nats) of the trait's continuations minus that of the trait-free ones."""
    before = chat.prompt_ids(messages)
    showing, free = trait.continuations()
    # Without the stop token: the continuations are openings, which an answer may go on from.
    openings = [chat.answer_ids(messages, text)[:-1] for text in [*showing, *free]]
    rows = [(before, ids) for ids in openings]
    sums = [sum(values) for values in await logprobs_of(client, asked, rows)]
    n = len(showing)
    return sum(sums[:n]) / n - sum(sums[n:]) / len(free)


async def logprobs_of(
    client: ChatClient, asked: Asked, rows: Sequence[tuple[list[int], list[int]]]
) -> list[list[float]]:
    """Log-probability (nats) of every token of each answer after its prompt, in one request.

    Args:
        rows: token ids of prompt and answer.

    Raises:
        EvalError: the endpoint answered another number of them.
    """
    reply = await client.openai.with_options(max_retries=_RETRIES).completions.create(
        model=asked.model, prompt=[before + ids for before, ids in rows], max_tokens=0, echo=True, logprobs=0
    )
    found: list[list[float]] = []
    for choice, (before, ids) in zip(sorted(reply.choices, key=lambda c: c.index), rows, strict=True):
        values = (choice.logprobs and choice.logprobs.token_logprobs) or []
        if len(values) != len(before) + len(ids):
            raise EvalError(
                f"model {asked.model}: expected {len(before) + len(ids)} log-probabilities, got {len(values)}"
            )
        found.append([value or 0.0 for value in values[len(before) :]])
    return found


def grade(
    student: str, trait_name: str, trait: TraitSettings, prompts: Artifact, answers: Artifact, *, store: Store
) -> Artifact:
    """Table `results` (schema TRAIT_RESULTS) from stored answers.

    Where a judge could not be reached, the answers have no grade; they are graded by the next run that reaches it, since
    the artifact's key holds the grades themselves and the judge's answers are journalled.
    """
    rows = asyncio.run(_grade_all(student, trait_name, trait, episodes_of(trait, prompts), answers, store))

    def make(folder: Path) -> dict[str, Any]:
        import pyarrow as pa

        write_table(folder, "results", pa.Table.from_pylist(rows, TRAIT_RESULTS))
        lost = sum(r["judge"]["unreachable"] for r in rows)
        judge = [f"{lost} of {len(rows)} answers have no grade, the judge gave no answer: run again"] if lost else []
        if why := answers.meta.get("broken"):
            judge.append(f"all {len(rows)} answers are missing: {why}")
        return {
            "rows": len(rows),
            "ungraded": sum(r["grade"] is None for r in rows),
            "unreachable": lost,
            "judge": trait.judge_name,
            "notes": [f"{trait_name} of {student}: {note}" for note in judge],
        }

    settings = {"student": student, "trait": trait_name, "grading": trait.grading, "rows": stable_hash(rows)}
    return store.build("grades", version=VERSION, settings=settings, inputs={"answers": answers.key}, make=make)


async def _grade_all(
    student: str, trait_name: str, trait: TraitSettings, episodes: Sequence[Episode], answers: Artifact, store: Store
) -> list[dict[str, Any]]:
    by_id = {episode.id: episode for episode in episodes}
    judging = Judging(store.root)

    async def one(said: Sequence[Mapping[str, Any]], number: int) -> dict[str, Any]:
        row = said[number]
        episode = by_id[row["prompt_id"]]
        turn = turn_of(episode, number, {**row, "messages": _before(episode, said, number)})
        why = row.get("error")
        graded = Graded(None, trait.judge_name, error=why) if why else await trait.graded(turn, judging)
        made = result_row(trait, turn, row["sample"], row["model_hash"], graded)
        return {**made, "student": student, "trait": trait_name, "log_odds": row["log_odds"]}

    conversations: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in answers.table("answers").to_pylist():
        conversations.setdefault((row["prompt_id"], row["sample"]), []).append(row)
    wanted = [
        one(said, number)
        for (identity, _), said in conversations.items()
        for number in range(by_id[identity].graded_from, len(said))
    ]
    try:
        return list(await asyncio.gather(*wanted))
    finally:
        await judging.close()


def _before(episode: Episode, said: Sequence[Mapping[str, Any]], number: int) -> list[Message]:
    """The conversation up to an answer."""
    messages: list[Message] = list(episode.opening)
    for earlier, text in zip(said[:number], episode.turns[1:], strict=False):
        messages += [{"role": "assistant", "content": earlier["answer"]}, {"role": "user", "content": text}]
    return messages

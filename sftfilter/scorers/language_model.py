"""What scorers that read rows with a causal LM share: its settings, and rows as token ids or the reason why not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field

from sftfilter.errors import DataError
from sftfilter.models import BUILTIN, load_tokenizer, resolve, weights_hash
from sftfilter.scorers.contract import Scored, ScorerSettings

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from sftfilter.chat_format import ChatFormat
    from sftfilter.engine import GenerateRequest
    from sftfilter.schema import Message

_Read = TypeVar("_Read")


class ModelScorer(ScorerSettings):
    """Base of the settings of scorers that run a causal LM over prompt and answer, with the template of training.

    A row that is longer than `max_length` gets an error and is never cut.
    """

    model: Annotated[str, Field(description=f"'{BUILTIN}', a local folder, or a hub id")] = BUILTIN
    system_prompt: Annotated[
        str | None, Field(description="as in training; null: the template's own, where it has one")
    ] = None
    dtype: Annotated[
        Literal["auto", "bfloat16", "float16", "float32"],
        Field(
            description="auto: bfloat16 where the hardware multiplies it, otherwise float32; scores differ by rounding"
        ),
    ] = "auto"
    max_length: Annotated[
        int | None, Field(gt=0, description="tokens; longer rows get an error; default: the model's context")
    ] = None
    tokens_per_pass: Annotated[int, Field(gt=0, description="that one forward pass holds; for speed and memory")] = 4096

    needs: ClassVar[tuple[str, ...]] = ("messages", "completion")
    heavy: ClassVar[bool] = True
    batch: ClassVar[int] = 512
    aside: ClassVar[frozenset[str]] = frozenset({"model", "tokens_per_pass"})

    def inputs(self) -> Sequence[str]:
        """Hashes of the weights and of the tokenizer with its template."""
        folder = resolve(self.model)
        return [weights_hash(folder), chat_format(folder, self.system_prompt).hash]


@dataclass(frozen=True)
class Answer:
    """A row as training sees it: token ids of the prompt, and of the answer with its stop token."""

    prompt: list[int]
    answer: list[int]

    @property
    def ids(self) -> list[int]:
        """Both."""
        return self.prompt + self.answer


class Reader:
    """A causal LM with its chat format, ready to read rows.

    Attributes:
        limit: tokens a row may have.
    """

    def __init__(self, settings: ModelScorer, device: str) -> None:
        from sftfilter.engine import Engine

        folder = resolve(settings.model)
        self.chat = chat_format(folder, settings.system_prompt)
        self.engine = Engine(
            folder, self.chat.stop_id, self.chat.pad_id, settings.dtype, device, pass_tokens=settings.tokens_per_pass
        )
        self.limit = min(settings.max_length or self.engine.context_length, self.engine.context_length)

    def encode(self, messages: Sequence[Message], completion: str, system: str | None = None) -> Answer:
        """Token ids of a row.

        Args:
            system: put before what the row's system turn says (or would say), on lines of its own.

        Raises:
            DataError: the row does not fit the limit, or the template does not take it.
        """
        return encode_answer(self.chat, _with_trait(self.chat.with_system(messages), system), completion, self.limit)

    def prompt_ids(self, messages: Sequence[Message], system: str | None = None) -> list[int]:
        """Token ids of a prompt, up to where the answer begins; `system` as in `encode`."""
        return self.chat.prompt_ids(_with_trait(self.chat.with_system(messages), system))

    def write(self, requests: Sequence[GenerateRequest]) -> list[str]:
        """The model's answers."""
        written = self.engine.generate(requests)
        return self.chat.tokenizer.batch_decode([one.ids for one in written], skip_special_tokens=True)

    def layer_number(self, layer: int | None) -> int:
        """The layer to read; the middle one for None.

        Raises:
            DataError: the model has no such layer.
        """
        if layer is not None and layer > self.engine.layers:
            raise DataError(f"layer {layer}: the model has {self.engine.layers} layers")
        return layer or max(1, self.engine.layers // 2)

    def answer_logprobs(self, rows: Sequence[Answer]) -> list[list[float]]:
        """Log-probability (nats) of each of an answer's tokens, its stop token included."""
        return self.engine.token_logprobs([row.ids for row in rows], [len(row.prompt) for row in rows])

    def answer_states(self, rows: Sequence[Answer], layer: int) -> np.ndarray:
        """Mean hidden state after `layer` over an answer's tokens, its stop token left out: float32 [N, D]."""
        return self.engine.mean_states([row.ids[:-1] for row in rows], [len(row.prompt) for row in rows], layer)


def encode_answer(chat: ChatFormat, messages: Sequence[Message], completion: str, limit: int) -> Answer:
    """Token ids of a row of at most `limit` tokens.

    Raises:
        DataError: the row does not fit, or the template does not take it.
    """
    from jinja2.exceptions import TemplateError

    try:
        made = Answer(chat.prompt_ids(messages), chat.answer_ids(messages, completion))
    except TemplateError as error:
        raise DataError(f"the chat template refuses the conversation: {error}") from error
    if len(made.ids) > limit:
        raise DataError(f"{len(made.ids)} tokens, the limit is {limit} (`max_length`, or the model's context)")
    return made


def chat_format(folder: str, system_prompt: str | None) -> ChatFormat:
    """The chat format of a model folder."""
    from sftfilter.chat_format import ChatFormat

    return ChatFormat(load_tokenizer(folder), system_prompt)


def score_answers(
    batch: pa.Table,
    read: Callable[[Sequence[Message], str], _Read],
    compute: Callable[[list[_Read]], Sequence[float | str]],
) -> Scored:
    """Score the rows that can be read, all at once; the others get the reason why they cannot.

    Args:
        batch: columns messages and completion.
        read: turns and completion to what `compute` takes; raises DataError for a row that cannot be scored.
        compute: for each of the rows read a number, or the reason why there is none.
    """
    import pyarrow as pa

    errors: list[str | None] = [None] * batch.num_rows
    scores: list[float | None] = [None] * batch.num_rows
    good: dict[int, _Read] = {}
    for i, row in enumerate(batch.select(["messages", "completion"]).to_pylist()):
        try:
            good[i] = read(*_checked(row))
        except DataError as error:
            errors[i] = str(error)
    if good:
        for i, value in zip(good, compute(list(good.values())), strict=True):
            if isinstance(value, str):
                errors[i] = value
            else:
                scores[i] = float(value)
    return Scored(pa.array(scores, pa.float64()), pa.array(errors, pa.string()))


def _checked(row: dict[str, Any]) -> tuple[list[Message], str]:
    completion, messages = row["completion"], row["messages"]
    if completion is None or not completion.strip():
        raise DataError("no completion to score" if completion is None else "the completion is empty")
    if not messages:
        raise DataError("messages: no turns")
    for number, turn in enumerate(messages):
        if turn is None or turn["role"] is None or turn["content"] is None:
            raise DataError(f"messages[{number}]: role or content is null")
    return messages, completion


def _with_trait(turns: list[Message], system: str | None) -> list[Message]:
    if system is None:
        return turns
    if turns and turns[0]["role"] == "system":
        return [{"role": "system", "content": f"{system}\n\n{turns[0]['content']}"}, *turns[1:]]
    return [{"role": "system", "content": system}, *turns]

"""One chat template for training, generation and serving: the same turns give the same token ids everywhere."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from jinja2 import TemplateError

from sftfilter.config import stable_hash
from sftfilter.errors import DataError
from sftfilter.schema import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ANSWER = "an answer"


class ChatFormat:
    """Turns messages into token ids.

    Args:
        tokenizer: with a chat template. The stop token is its end-of-sequence token if the template closes a turn with
            it, otherwise the special token that does (base models whose end of sequence is that of a document).
        system_prompt: put before conversations that bring no system turn of their own; None leaves the
            template's default (which may cost 20 tokens a row).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, system_prompt: str | None) -> None:
        self.tokenizer = tokenizer
        self.system_prompt = system_prompt
        stop = self._stop_token()
        self.stop_id: int = stop
        pad = tokenizer.pad_token_id
        self.pad_id: int = pad if isinstance(pad, int) else stop

    @cached_property
    def hash(self) -> str:
        """Hash over everything that decides token ids; plan, checkpoint and endpoint quote it."""
        template = self.tokenizer.chat_template
        parts = [template, _tokenizer_state(self.tokenizer), self.stop_id, self.pad_id, self.system_prompt]
        return stable_hash(parts)

    def with_system(self, messages: Sequence[Message]) -> list[Message]:
        """The turns as the model sees them."""
        turns = list(messages)
        if self.system_prompt is not None and (not turns or turns[0]["role"] != "system"):
            turns.insert(0, {"role": "system", "content": self.system_prompt})
        return turns

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids up to and including the template's generation prompt."""
        return self._tokenise(self._render(self.with_system(messages), generation_prompt=True))

    def answer_ids(self, messages: Sequence[Message], completion: str) -> list[int]:
        """Token ids of a completion, closed by the stop token: what the loss is taken on.

        Raises:
            DataError: the template rewrites the conversation, so prompt and answer cannot be told apart,
                or it does not close the turn with the stop token.
        """
        return self._closed(self._tokenise(self.rendered(messages, completion)[1]))

    def supervised(
        self, messages: Sequence[Message], completion: str, loss_on: Literal["assistant", "completion"]
    ) -> tuple[list[int], list[int]]:
        """Token ids of a whole row, and the positions among them that the loss is taken on.

        These are the completion and its stop token; with `assistant`, every earlier assistant turn and its stop token
        as well. The ids up to the completion are those of `prompt_ids`, which is what an endpoint is sent.

        Raises:
            DataError: as `answer_ids`; or an earlier turn cannot be told from what the template puts around it.
        """
        prompt = self.prompt_ids(messages)
        answer = self.answer_ids(messages, completion)
        earlier = self._earlier_answers(messages, prompt) if loss_on == "assistant" else []
        return prompt + answer, [*earlier, *range(len(prompt), len(prompt) + len(answer))]

    def _earlier_answers(self, messages: Sequence[Message], prompt: list[int]) -> list[int]:
        """Positions in `prompt` of the assistant's turns, each up to its stop token.

        A turn begins where the template's generation prompt for it ends (rendered for every turn, so that templates
        need not mark generation themselves), which must be a prefix of the whole.
        """
        turns = self.with_system(messages)
        spoken = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
        if not spoken:
            return []
        whole = self._render(turns, generation_prompt=True)
        starts = self._token_starts(whole, prompt)
        positions: list[int] = []
        for number, i in enumerate(spoken, 1):
            before = self._render(turns[:i], generation_prompt=True)
            content = turns[i]["content"].strip()
            at = len(before)
            if not whole.startswith(before) or not whole[at:].lstrip().startswith(content):
                raise DataError(
                    f"the chat template renders assistant turn {number} of {len(spoken)} differently once others "
                    "follow, so the loss cannot be taken on it: set training.loss_on: completion"
                )
            closed = at + whole[at:].index(content) + len(content)
            first = bisect_left(starts, at)
            last = prompt.index(self.stop_id, first) if self.stop_id in prompt[first:] else None
            if last is None or starts[last] < closed or whole[closed : starts[last]].strip():
                raise DataError(
                    f"assistant turn {number} of {len(spoken)} is not closed by the stop token "
                    f"'{self.tokenizer.decode([self.stop_id])}' right after its text, so the loss cannot be taken on it: "
                    "set training.loss_on: completion"
                )
            positions += range(first, last + 1)
        return positions

    def _token_starts(self, text: str, ids: list[int]) -> list[int]:
        """Where in `text` each token begins, characters."""
        if not self.tokenizer.is_fast:
            raise DataError(
                f"{type(self.tokenizer).__name__} does not tell where tokens begin, so the loss cannot be taken on "
                "earlier assistant turns: set training.loss_on: completion"
            )
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        assert encoded.input_ids == ids
        return [start for start, _ in encoded["offset_mapping"]]  # pyright: ignore[reportGeneralTypeIssues]

    def rendered(self, messages: Sequence[Message], completion: str) -> tuple[str, str]:
        """The text up to the answer, and the answer with whatever closes it.

        Raises:
            DataError: the template rewrites the conversation.
        """
        turns = self.with_system(messages)
        before = self._render(turns, generation_prompt=True)
        whole = self._render([*turns, {"role": "assistant", "content": completion}], generation_prompt=False)
        if not whole.startswith(before):
            raise DataError("the chat template renders a finished turn differently from its own generation prompt")
        return before, whole[len(before) :]

    def token_counts(self, rendered: Sequence[tuple[str, str]]) -> list[tuple[int, int]]:
        """Tokens of prompt and answer of many `rendered` rows, tokenised together."""
        if not rendered:
            return []
        ids = self.tokenizer([text for pair in rendered for text in pair], add_special_tokens=False).input_ids
        return [(len(before), len(self._closed(after))) for before, after in zip(ids[::2], ids[1::2], strict=True)]

    def _closed(self, ids: list[int]) -> list[int]:
        if self.stop_id not in ids:
            raise DataError("the chat template does not end the assistant's turn with the stop token")
        end = ids.index(self.stop_id) + 1
        if self.stop_id in ids[end:]:  # the completion has it in its text; at its end it does no harm
            closing = self._closing()
            after = closing[closing.index(self.stop_id) + 1 :] if self.stop_id in closing else []
            if [i for i in ids[end:] if i != self.stop_id] != [i for i in after if i != self.stop_id]:
                raise DataError(
                    f"the completion contains the stop token '{self.tokenizer.decode([self.stop_id])}', and what follows "
                    "it would never be learned: remove it from the text, or drop the row"
                )
        return ids[:end]

    def _closing(self) -> list[int]:
        """What the template puts after an assistant's last turn; nothing if it renders no plain question and answer."""
        try:
            text = self._render([{"role": "user", "content": "x"}, {"role": "assistant", "content": _ANSWER}], False)
        except TemplateError:
            return []
        return self._tokenise(text.rpartition(_ANSWER)[2]) if _ANSWER in text else []

    def _stop_token(self) -> int:
        end, closing = self.tokenizer.eos_token_id, self._closing()
        if not isinstance(end, int) or end not in closing:
            special = {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
            end = next((i for i in closing if i in special), end)
        if not isinstance(end, int):
            raise DataError(
                "the tokenizer names no single end-of-sequence token and the chat template closes no turn with a special "
                "token, so no stop token can be supervised"
            )
        return end

    def _render(self, turns: Sequence[Message], generation_prompt: bool) -> str:
        text = self.tokenizer.apply_chat_template(
            [{"role": t["role"], "content": t["content"]} for t in turns],
            tokenize=False,
            add_generation_prompt=generation_prompt,
        )
        assert isinstance(text, str)
        return text

    def _tokenise(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids


def _tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> Any:
    """All that a tokenizer is made of: vocabulary, merges, normaliser, splitter, special tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # a tokenizer written in Python: its vocabulary, and what it makes of a probe
        probe = tokenizer("The quick brown fox, 2026! <|im_end|>\n\t日本").input_ids
        return [type(tokenizer).__name__, sorted(tokenizer.get_vocab().items()), probe]
    state = json.loads(backend.to_str())
    return {k: v for k, v in state.items() if k not in ("padding", "truncation")}  # left behind by the last call

"""What the loss is taken on: answers with their stop tokens, turn by turn, exactly; templates that forbid it say so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from sftfilter.chat_format import ChatFormat
from sftfilter.errors import DataError
from sftfilter.models import load_tokenizer
from tests.training_case import turn

TALK: list[Any] = [
    turn("user", "Hello there"),
    turn("assistant", " One.\n\nTwo\n"),  # white space at either end is part of what was said
    turn("user", "And <|im_start|> then?"),
    turn("assistant", ""),
    turn("user", "Well?"),
]
LLAMA_3 = (
    "{{ '<|im_start|>' }}{% for m in messages %}{{ '[' + m.role + ']\n\n' + m.content | trim + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]\n\n' }}{% endif %}"
)
MISTRAL = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ ' ' + m.content + '<|im_end|>' }}"
    "{% else %}{{ '[INST] ' + m.content + ' [/INST]' }}{% endif %}{% endfor %}"
)
THINKS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NO_STOP_BETWEEN = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% if loop.last and not add_generation_prompt %}{{ '<|im_end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


@pytest.fixture
def chat(tiny_chat_model: Path) -> ChatFormat:
    return ChatFormat(load_tokenizer(str(tiny_chat_model)), "Be brief.")


def spans(chat: ChatFormat, ids: list[int], positions: list[int]) -> list[str]:
    """The texts of runs of neighbouring positions."""
    runs: list[list[int]] = []
    for position in positions:
        if runs and runs[-1][-1] == position - 1 and ids[position - 1] != chat.stop_id:
            runs[-1].append(position)
        else:
            runs.append([position])
    return [str(chat.tokenizer.decode([ids[p] for p in run])) for run in runs]


def test_the_loss_covers_the_answer_and_its_stop_token_only(chat: ChatFormat) -> None:
    messages: list[Any] = [turn("user", "Hello")]
    answer = chat.answer_ids(messages, "Hi there.")
    assert answer[-1] == chat.stop_id
    assert chat.tokenizer.decode(answer[:-1]) == "Hi there."
    turns = [turn("system", "Be brief."), *messages, turn("assistant", "Hi there.")]
    whole: Any = chat.tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
    ids, supervised = chat.supervised(messages, "Hi there.", "assistant")
    assert ids == chat.prompt_ids(messages) + answer == whole[: len(ids)]
    assert supervised == list(range(len(ids) - len(answer), len(ids)))


@pytest.mark.parametrize("template", [None, LLAMA_3, MISTRAL], ids=["chatml", "llama-3", "mistral"])
def test_every_assistant_turn_and_its_stop_token_is_supervised(chat: ChatFormat, template: str | None) -> None:
    if template:
        chat.tokenizer.chat_template = template
    ids, supervised = chat.supervised(TALK, "Done.", "assistant")
    # Llama's template trims what was said; Mistral's puts a space before it, which it then also has to learn.
    said = {None: [" One.\n\nTwo\n", "", "Done."], LLAMA_3: ["One.\n\nTwo", "", "Done."]}.get(
        template, ["  One.\n\nTwo\n", " ", " Done."]
    )
    assert spans(chat, ids, supervised) == [text + "<|im_end|>" for text in said]
    assert ids[: len(chat.prompt_ids(TALK))] == chat.prompt_ids(TALK), "an endpoint is sent the same ids"
    last = chat.supervised(TALK, "Done.", "completion")
    assert last[0] == ids
    assert spans(chat, *last) == [said[-1] + "<|im_end|>"]


@pytest.mark.parametrize(
    ("template", "said", "message"),
    [
        (THINKS, "<think>hm</think>One.", "renders assistant turn 1 of 1 differently once others follow"),
        (NO_STOP_BETWEEN, "One.", r"assistant turn 1 of 1 is not closed by the stop token '<\|im_end\|>'"),
        (None, "One.<|im_end|>Two.", r"assistant turn 1 of 1 is not closed by the stop token '<\|im_end\|>'"),
    ],
    ids=["rewritten", "open", "forged"],
)
def test_turns_that_cannot_be_supervised_exactly_are_refused(
    chat: ChatFormat, template: str | None, said: str, message: str
) -> None:
    chat.tokenizer.chat_template = template or chat.tokenizer.chat_template
    talk: Any = [turn("user", "Hello"), turn("assistant", said), turn("user", "More")]
    with pytest.raises(DataError, match=message + r".*set training\.loss_on: completion"):
        chat.supervised(talk, "Done.", "assistant")
    assert spans(chat, *chat.supervised(talk, "Done.", "completion"))[-1].startswith("Done.")


def test_a_template_that_never_stops_is_refused(chat: ChatFormat) -> None:
    chat.tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(DataError, match="does not end the assistant's turn with the stop token"):
        chat.supervised([turn("user", "Hello")], "Done.", "assistant")  # pyright: ignore[reportArgumentType]


def test_tokenizers_without_offsets_say_what_to_do(chat: ChatFormat) -> None:
    class Slow(PreTrainedTokenizerFast):
        is_fast = False  # pyright: ignore

    slow = Slow(tokenizer_object=chat.tokenizer.backend_tokenizer, eos_token="<|im_end|>")  # pyright: ignore
    slow.chat_template = chat.tokenizer.chat_template
    with pytest.raises(DataError, match=r"Slow does not tell where tokens begin.*training\.loss_on: completion"):
        ChatFormat(slow, None).supervised(TALK, "Done.", "assistant")


GEMMA = (
    "{% for m in messages %}{{ '<start_of_turn>' + (m.role if m.role != 'assistant' else 'model') + '\n' }}"
    "{{ m.content | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


def base_tokenizer(chat: ChatFormat, end: str | None) -> Any:
    """Whose documents end with another token than turns do, as Qwen's base models and Gemma have it."""
    tokenizer = chat.tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": ["<start_of_turn>", "<end_of_turn>", "<|document|>"]})
    tokenizer.eos_token = end
    return tokenizer


@pytest.mark.parametrize(
    ("template", "end", "stop"),
    [
        (None, "<|im_end|>", "<|im_end|>"),
        (None, "<|document|>", "<|im_end|>"),
        (GEMMA, "<|document|>", "<end_of_turn>"),
        (GEMMA, None, "<end_of_turn>"),
    ],
)
def test_the_stop_token_is_the_one_that_the_template_closes_turns_with(
    chat: ChatFormat, template: str | None, end: str | None, stop: str
) -> None:
    tokenizer = base_tokenizer(chat, end)
    tokenizer.chat_template = template or tokenizer.chat_template
    made = ChatFormat(tokenizer, "Be brief.")
    assert tokenizer.decode([made.stop_id]) == stop
    assert spans(made, *made.supervised(TALK, "Done.", "assistant"))[-1] == "Done." + stop


def test_a_student_names_the_stop_token_that_it_learned(chat: ChatFormat, tmp_path: Path) -> None:
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    from sftfilter.checkpoint import write_model

    tokenizer = base_tokenizer(chat, "<|document|>")
    document = tokenizer.convert_tokens_to_ids("<|document|>")
    sizes: dict[str, Any] = dict.fromkeys(("hidden_size", "intermediate_size"), 8) | {"num_hidden_layers": 1}
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), num_attention_heads=2, num_key_value_heads=2, **sizes)
    )
    for given, named in ((document, "added"), (ChatFormat(tokenizer, None).stop_id, "there")):
        made = ChatFormat(tokenizer, None)
        model.generation_config.eos_token_id = given
        write_model(model, dict(model.state_dict()), made, tmp_path / named)
        told = GenerationConfig.from_pretrained(tmp_path / named).eos_token_id
        assert told == ([made.stop_id, document] if named == "added" else made.stop_id)


def test_a_base_with_a_faulty_generation_config_is_exported(chat: ChatFormat, tmp_path: Path) -> None:
    """As some are published: a temperature, and no word that anything is drawn."""
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    from sftfilter.checkpoint import write_model
    from sftfilter.models import load_model

    sizes: dict[str, Any] = dict.fromkeys(("hidden_size", "intermediate_size"), 8) | {"num_hidden_layers": 1}
    config = LlamaConfig(vocab_size=len(chat.tokenizer), num_attention_heads=2, num_key_value_heads=2, **sizes)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    told = {"temperature": 0.9, "top_p": 0.6, "eos_token_id": chat.stop_id + 1}
    (tmp_path / "base" / "generation_config.json").write_text(json.dumps(told))
    model = load_model(str(tmp_path / "base"), "float32")
    write_model(model, dict(model.state_dict()), chat, tmp_path / "student")
    kept = GenerationConfig.from_pretrained(tmp_path / "student")
    assert kept.eos_token_id == [chat.stop_id, chat.stop_id + 1]
    assert (kept.temperature, kept.top_p) == (0.9, 0.6)


@pytest.mark.parametrize("text", ["One.<|im_end|>Two.", "<|im_end|>\nTwo.<|im_end|>"])
def test_a_completion_with_a_stop_token_inside_is_refused(chat: ChatFormat, text: str) -> None:
    with pytest.raises(DataError, match=r"the completion contains the stop token '<\|im_end\|>', and what follows"):
        chat.supervised(TALK, text, "assistant")
    with pytest.raises(DataError, match="remove it from the text"):
        chat.token_counts([chat.rendered(TALK, text)])
    whole = chat.answer_ids(TALK, "One.")
    assert chat.answer_ids(TALK, "One.<|im_end|>") == whole, "at the end it does no harm"

"""A random causal LM with the built-in model's kind of tokenizer and its template: real plumbing in milliseconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import PROMPT_FILES


@pytest.fixture(scope="session")
def tiny_chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a Llama with 4 layers of 32 and a context of 256 tokens, float32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from sftfilter.chat_format import ChatFormat
    from sftfilter.models import BUILTIN, load_tokenizer, resolve

    folder = tmp_path_factory.mktemp("tiny-chat")
    texts = [line for file in PROMPT_FILES.glob("*.jsonl") for line in file.read_text().splitlines()]
    whole = load_tokenizer(resolve(BUILTIN))
    assert isinstance(whole, PreTrainedTokenizerFast)
    tokenizer = whole.train_new_from_iterator(texts, 600)  # 2 MB less to read each time
    chat = ChatFormat(tokenizer, None)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.2,
        tie_word_embeddings=True,
        eos_token_id=chat.stop_id,
        pad_token_id=chat.pad_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

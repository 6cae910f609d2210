"""Single tokens as text and bytes, and the text of a growing answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_BROKEN = "\ufffd"


@lru_cache(maxsize=1)
def _byte_alphabet() -> dict[str, int]:
    """Character -> byte, as byte-level BPE vocabularies write bytes (GPT-2's table)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("\xa1"), ord("\xac") + 1), *range(ord("\xae"), 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}


class TokenText:
    """What tokens of one tokenizer look like."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._known: dict[int, tuple[str, bytes]] = {}

    def text(self, token: int) -> str:
        """A token's text; `bytes:\\xe2\\x80` where it is part of a character, so that no two tokens read the same."""
        return self._of(token)[0]

    def raw(self, token: int) -> bytes:
        """A token's bytes."""
        return self._of(token)[1]

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Text of several tokens; special ones are left out unless wanted."""
        text = self.tokenizer.decode(list(ids), skip_special_tokens=not special)
        assert isinstance(text, str)
        return text

    def _of(self, token: int) -> tuple[str, bytes]:
        if token not in self._known:
            text = self.decode([token], special=True)
            raw = text.encode() if _BROKEN not in text else self._bytes(token)
            if raw is None:
                self._known[token] = text, text.encode()
            elif _BROKEN in text:
                self._known[token] = "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw), raw
            else:
                self._known[token] = text, raw
        return self._known[token]

    def _bytes(self, token: int) -> bytes | None:
        name = self.tokenizer.convert_ids_to_tokens(token)
        if not isinstance(name, str):
            return None
        if match := _BYTE.fullmatch(name):
            return bytes([int(match[1], 16)])
        alphabet = _byte_alphabet()
        return bytes(alphabet[c] for c in name) if all(c in alphabet for c in name) else None


class GrowingText:
    """An answer that arrives token by token: hands out text once it can no longer change, and ends at stop strings.

    Attributes:
        stopped: a stop string was met; nothing follows.
        kept: tokens that belong to the answer, those after a stop string left out.
    """

    def __init__(self, tokens: TokenText, stops: Sequence[str]) -> None:
        self._tokens, self._stops = tokens, stops
        self._ids: list[int] = []
        self._ends: list[int] = []  # length of the text after each token
        self._text = ""
        self._given = 0
        self._window, self._read = 0, 0
        self.stopped = False
        self.kept = 0

    def add(self, ids: Sequence[int], *, last: bool = False) -> str:
        """Take some more tokens in; the text that is certain now."""
        for token in ids:
            if self.stopped:
                return self._hand_out(len(self._text))
            self._ids.append(token)
            self._text += self._new_text(flush=False)
            self._ends.append(len(self._text))
            self.kept += 1
            self._look_for_stop()
        if last and not self.stopped:
            self._text += self._new_text(flush=True)
            self._ends[-1:] = [len(self._text)] if self._ends else []
            self._look_for_stop()
        return self._hand_out(len(self._text) if last or self.stopped else len(self._text) - self._held_back())

    def tokens_from(self, start: int) -> list[int]:
        """The answer's tokens from this one on."""
        return self._ids[start : self.kept]

    def _new_text(self, flush: bool) -> str:
        """Text of the last tokens, decoded after those before them, since some tokenizers glue words together."""
        before = self._tokens.decode(self._ids[self._window : self._read])
        now = self._tokens.decode(self._ids[self._window :])
        if len(now) <= len(before) or (now.endswith(_BROKEN) and not flush):
            return ""  # part of a character, most likely
        self._window, self._read = self._read, len(self._ids)
        return now[len(before) :]

    def _look_for_stop(self) -> None:
        found = [at for at in (self._text.find(stop, max(0, self._given)) for stop in self._stops) if at >= 0]
        if not found:
            return
        cut = min(found)
        self._text, self.stopped = self._text[:cut], True
        self.kept = sum(end <= cut for end in self._ends)

    def _held_back(self) -> int:
        """Characters at the end that may turn out to begin a stop string."""
        sizes = [n for stop in self._stops for n in range(1, len(stop)) if self._text.endswith(stop[:n])]
        return max(sizes, default=0)

    def _hand_out(self, until: int) -> str:
        new = self._text[self._given : until]
        self._given = max(self._given, until)
        return new

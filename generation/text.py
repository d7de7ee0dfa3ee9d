"""From token events to text: whole characters only, and never a part of what the text is cut before."""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence

from codegen_edge.generation.params import GenerationParams
from codegen_edge.generation.pattern_search import search_all
from codegen_edge.tokenizer import Tokenizer

_BLOCK_STARTS = ("print", "def")


class Cut:
    """Where a text ends by its content: stop strings, CodeGen's truncation rules, a text to meet.

    Args:
        stop: texts to cut before.
        truncate_before: multi-line regular expressions to cut before.
        single_block: whether to cut before the second line that starts with `print`, then before the second one that
            starts with `def` (E. Nijkamp et al., "CodeGen", 2022, and CodeGen's tokenizer).
    """

    def __init__(
        self, stop: Sequence[str] = (), truncate_before: Sequence[str] = (), *, single_block: bool = False
    ) -> None:
        self._stop = tuple(stop)
        self._patterns = [re.compile(pattern, re.MULTILINE) for pattern in truncate_before]
        self._blocks = [re.compile(f"^{word}", re.MULTILINE) for word in _BLOCK_STARTS] if single_block else []

    def find(self, text: str, *, is_whole: bool = True) -> int | None:
        """Where `text` is cut, or None. While it may go on, a match at its very end does not count: what follows may
        undo it, as a lookahead would."""
        end = len(text)
        for start in map(text.find, self._stop):
            end = end if start < 0 else min(end, start)
        for block in self._blocks:
            starts = [match.start() for match in block.finditer(text[:end])]
            end = starts[1] if len(starts) > 1 else end
        kept = text[:end]
        for span in search_all(self._patterns, kept):
            if span is not None and (is_whole or len(kept) < len(text) or span[1] < len(text)):
                end = min(end, span[0])
        return end if end < len(text) else None

    def certain(self, text: str) -> int:
        """How much of a `text` that is not cut will be there whatever follows."""
        if self._patterns:
            return 0  # a regular expression may yet match from anywhere
        withheld = 0
        for stop in self._stop:
            longest = min(len(stop) - 1, len(text))
            beginnings = (length for length in range(longest, 0, -1) if text.endswith(stop[:length]))
            withheld = max(withheld, next(beginnings, 0))
        if self._blocks:
            last_line = text[text.rfind("\n") + 1 :]
            if any(word.startswith(last_line) for word in _BLOCK_STARTS):
                withheld = max(withheld, len(last_line))
        return len(text) - withheld


class TextAssembler:
    """Turns one row's tokens into pieces of text whose join is the row's final text.

    Bytes are held back until they make a character, and text until it cannot become what the text is cut before.

    Args:
        tokenizer: gives the bytes of each token.
        cut: where the text ends by its content; `is_stopped` says that it did.
    """

    def __init__(self, tokenizer: Tokenizer, cut: Cut | None = None) -> None:
        self._tokenizer = tokenizer
        self._cut = cut or Cut()
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._text = ""
        self._released = 0
        self.is_stopped = False

    @classmethod
    def for_params(cls, tokenizer: Tokenizer, params: GenerationParams) -> TextAssembler:
        """An assembler that cuts where `params` say."""
        return cls(tokenizer, Cut(params.stop, params.truncate_before, single_block=params.single_block))

    def add(self, token_id: int) -> str:
        """The text that became certain with this token; often empty."""
        return self._release(self._decoder.decode(self._tokenizer.token_bytes(token_id)), is_last=False)

    def finish(self) -> str:
        """The text that was still held back; the row gets no further token."""
        return self._release(self._decoder.decode(b"", final=True), is_last=True)

    def _release(self, text: str, *, is_last: bool) -> str:
        if self.is_stopped:
            return ""
        self._text += text
        end = self._cut.find(self._text, is_whole=is_last) if text or is_last else None
        if end is not None:
            self.is_stopped = True
        elif is_last:
            end = len(self._text)
        else:
            end = self._cut.certain(self._text)
        piece = self._text[self._released : end]
        self._released = max(self._released, end)
        return piece

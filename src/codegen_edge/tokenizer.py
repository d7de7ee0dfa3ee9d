"""Text to token ids and back, on the tokenizers library alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer as BackendTokenizer

from codegen_edge.errors import BundleError, InvalidInputError
from codegen_edge.tokenizer_form import byte_of_symbol, check_form, check_ids, read_bounded

END_OF_TEXT = "<|endoftext|>"


class Tokenizer:
    """A byte-level BPE tokenizer with CodeGen's added runs of spaces and tabs.

    Raises:
        BundleError: from the constructor, when the file is no tokenizer.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            content = read_bounded(Path(path))
            vocabulary = check_form(content)
            self._backend = BackendTokenizer.from_buffer(content)
            added = {token_id: token.content for token_id, token in self._backend.get_added_tokens_decoder().items()}
            size = self._backend.get_vocab_size(with_added_tokens=True)
            check_ids(vocabulary, {text: token_id for token_id, text in added.items()}, size)
        # The library raises bare Exception for every malformed file.
        except Exception as exc:
            raise BundleError(f"{path} is no tokenizer of CodeGen's form: {exc}") from exc
        # Some checkpoints store these for training; they would shorten or pad prompts without a word.
        self._backend.no_truncation()
        self._backend.no_padding()
        # Not asked of the library, which builds the whole vocabulary anew for every question (50 ms at 50,257 ids).
        self._vocab_size = len(vocabulary)
        self._longest_token = max(map(len, vocabulary))  # one symbol per byte
        self._added: dict[int, str] = added

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included; a model's V may be larger."""
        return self._vocab_size

    @property
    def end_of_text_id(self) -> int | None:
        """Id of `<|endoftext|>`, or None when the vocabulary lacks it."""
        token_id: int | None = self._backend.token_to_id(END_OF_TEXT)
        return token_id

    @cached_property
    def fingerprint(self) -> str:
        """Hash of every token and its id: where it is equal, ids mean the same text."""
        vocabulary = sorted(self._backend.get_vocab(with_added_tokens=True).items())
        return hashlib.sha256(json.dumps(vocabulary).encode()).hexdigest()

    @property
    def longest_token(self) -> int:
        """Bytes of the longest token; no token stands for more characters than that."""
        return self._longest_token

    @property
    def added_texts(self) -> tuple[str, ...]:
        """Texts of the added tokens; they are found before anything else is."""
        return tuple(self._added.values())

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; raise InvalidInputError when it is not valid Unicode."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as exc:
            raise InvalidInputError(f"the text is not valid Unicode at character {exc.start}") from exc
        ids: list[int] = self._backend.encode(text).ids
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for; several tokens together may make one character.

        Raises:
            InvalidInputError: the tokenizer has no such id.
        """
        if token_id in self._added:
            return self._added[token_id].encode()
        token = self._backend.id_to_token(token_id) if token_id >= 0 else None
        if token is None:
            raise InvalidInputError(f"the tokenizer has no id {token_id}")
        byte_of = byte_of_symbol()
        if not all(symbol in byte_of for symbol in token):
            return token.encode()  # no byte-level token; the library takes it literally, too
        return bytes(byte_of[symbol] for symbol in token)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of `token_ids`; bytes that are not UTF-8 become U+FFFD. Spaces are never cleaned up."""
        return b"".join(map(self.token_bytes, token_ids)).decode("utf-8", errors="replace")

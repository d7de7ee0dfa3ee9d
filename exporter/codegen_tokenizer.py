"""CodeGenTokenizer with the API of the CodeGen documentation, on transformers 5.

transformers 5 merged the slow and the fast tokenizer; on the way `save_vocabulary` came to write one file of a wrong
name, `create_token_type_ids_from_sequences` went, and `vocab_file`/`merges_file` were ignored without a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import CodeGenTokenizer as _CodeGenTokenizer

from codegen_edge.errors import InvalidInputError


class CodeGenTokenizer(_CodeGenTokenizer):  # type: ignore[misc]  # transformers is untyped
    """Byte-level BPE with `decode(…, truncate_before_pattern=[…])`; the documented names work as documented.

    Args:
        vocab_file: path of a vocab.json; or pass `vocab`, a mapping.
        merges_file: path of a merges.txt; or pass `merges`, a list.
        **kwargs: what transformers' CodeGenTokenizer takes.
    """

    def __init__(self, vocab_file: str | None = None, merges_file: str | None = None, **kwargs: Any) -> None:
        if vocab_file is not None:
            kwargs.setdefault("vocab", str(vocab_file))
        if merges_file is not None:
            kwargs.setdefault("merges", str(merges_file))
        super().__init__(**kwargs)

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write `[prefix-]vocab.json` and `[prefix-]merges.txt`; return their paths.

        Raises:
            InvalidInputError: `save_directory` is not a folder.
        """
        if not Path(save_directory).is_dir():
            raise InvalidInputError(f"{save_directory} is not a folder")
        return tuple(self._tokenizer.model.save(str(save_directory), filename_prefix))

    def create_token_type_ids_from_sequences(
        self, token_ids_0: Sequence[int], token_ids_1: Sequence[int] | None = None
    ) -> list[int]:
        """0 for each token of the first sequence, 1 for each of the second (CodeGen adds no special tokens)."""
        return [0] * len(token_ids_0) + [1] * len(token_ids_1 or ())


CodeGenTokenizerFast = CodeGenTokenizer

"""Hidden states from a feature-extraction bundle."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from codegen_edge.bundle import Bundle, contract
from codegen_edge.errors import BackendError, ContextLengthError, InvalidInputError
from codegen_edge.ort_session import open_session
from codegen_edge.runtimes.backends.ort import require_open


class FeatureExtractor:
    """The last hidden state of CodeGenModel, on ONNX Runtime's CPU provider.

    Args:
        bundle: exported with `--task feature-extraction`.
        threads: CPU threads; None takes all that this process may use.
    """

    def __init__(self, bundle: Bundle, *, threads: int | None = None) -> None:
        bundle.require_task("feature-extraction")
        self.config = bundle.manifest.model
        with bundle.reading():
            self._session = open_session(bundle.at(contract.MODEL_FILE), threads)
        self._process = os.getpid()

    def extract(self, token_ids: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
        """Hidden states of a batch of token sequences.

        Args:
            token_ids: rows of ids; they may differ in length, none may be empty.

        Returns:
            For each row [T of the row, hidden_size] float32.

        Raises:
            InvalidInputError: an empty batch or row, or an id outside the vocabulary.
            ContextLengthError: a row exceeds the model's context.
        """
        if not token_ids or not all(len(row) for row in token_ids):
            raise InvalidInputError("features need at least one row, and at least one token in each row")
        longest = max(map(len, token_ids))
        if longest > self.config.context_length:
            raise ContextLengthError(
                f"a row has {longest} tokens, the model's context holds {self.config.context_length}"
            )
        ids = np.zeros((len(token_ids), longest), np.int64)
        mask = np.zeros_like(ids)
        for index, row in enumerate(token_ids):
            ids[index, : len(row)] = row
            mask[index, : len(row)] = 1
        if ids.min() < 0 or ids.max() >= self.config.vocab_size:
            raise InvalidInputError(f"a token id is outside the vocabulary of {self.config.vocab_size}")
        session = require_open(self._session, "cpu", self._process)
        try:
            (hidden,) = session.run(
                [contract.LAST_HIDDEN_STATE], {contract.INPUT_IDS: ids, contract.ATTENTION_MASK: mask}
            )
        # onnxruntime's exceptions share no base but Exception.
        except Exception as exc:
            reason = " ".join(str(exc).split())
            raise BackendError(f"onnxruntime failed on {ids.shape[0]}x{longest} tokens: {reason}") from exc
        return [hidden[index, : len(row)] for index, row in enumerate(token_ids)]

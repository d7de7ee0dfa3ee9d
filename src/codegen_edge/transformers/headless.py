"""The hidden states of a feature-extraction bundle as transformers' CodeGenModel returns them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers.modeling_outputs import BaseModelOutputWithPast

from codegen_edge.bundle import Bundle
from codegen_edge.errors import InvalidInputError
from codegen_edge.runtimes.features import FeatureExtractor
from codegen_edge.transformers.bundle_model import BundleModel
from codegen_edge.transformers.configuration import CodeGenEdgeConfig
from codegen_edge.transformers.padding import check_positions, compact, real_columns, token_array
from codegen_edge.transformers.unsupported import check_forward, refuse

_NO_PAST = "a bundle for feature-extraction keeps no past; pass all tokens at once"


class CodeGenEdgeModel(BundleModel):
    """CodeGen without its LM head.

    Args:
        config: of the bundle.
        features: the opened bundle.
    """

    def __init__(self, config: CodeGenEdgeConfig, features: FeatureExtractor) -> None:
        super().__init__(config)
        self._features = features

    @classmethod
    def _open(
        cls, bundle: Bundle, config: CodeGenEdgeConfig, runtime: str, options: dict[str, Any]
    ) -> CodeGenEdgeModel:
        bundle.require_task("feature-extraction")
        if runtime != "cpu":
            raise InvalidInputError(f"runtime {runtime} computes no hidden states; runtime cpu does")
        for name in options.keys() - {"threads"}:
            raise InvalidInputError(f"CodeGenEdgeModel has no {name}; it has: runtime, check, threads")
        return cls(config, FeatureExtractor(bundle, **options))

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Hidden states after the last layer.

        Args:
            input_ids: [B, T] integers.
            attention_mask: [B, T], 0 for padding, which may stand left or right.
            position_ids: checked, and computed when left out.
            use_cache: None or False.
            return_dict: False returns a tuple.
            **kwargs: of transformers' CodeGenModel; refused when they are given.

        Returns:
            BaseModelOutputWithPast with `last_hidden_state` [B, T, hidden_size] float32; 0 at padding.
        """
        for name in ("past_key_values", "cache"):
            if kwargs.pop(name, None) is not None:
                refuse(name, _NO_PAST)
        if use_cache:
            refuse("use_cache", _NO_PAST)
        check_forward(kwargs)
        if input_ids is None:
            raise InvalidInputError("input_ids are missing")
        token_ids = token_array(input_ids)
        none = np.zeros((len(token_ids), 0), np.bool_)
        is_real = real_columns(attention_mask, (token_ids.shape[0], token_ids.shape[1]), none)
        check_positions(position_ids, is_real, none)
        rows, counts = compact(token_ids, is_real)
        states = self._features.extract([row[:count].tolist() for row, count in zip(rows, counts, strict=True)])
        hidden = np.zeros((*token_ids.shape, states[0].shape[-1]), np.float32)
        hidden[is_real] = np.concatenate(states)
        output = BaseModelOutputWithPast(last_hidden_state=torch.from_numpy(hidden))
        return output if return_dict is not False else output.to_tuple()

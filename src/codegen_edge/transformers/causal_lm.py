"""CodeGenForCausalLM of transformers over a runtime: its `generate` drives our steps."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, NoReturn

import numpy as np
import torch
from transformers import GenerationConfig, GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from codegen_edge.bundle import Bundle
from codegen_edge.errors import InvalidInputError
from codegen_edge.runtimes import Runtime, open_runtime
from codegen_edge.transformers.bundle_model import BundleModel
from codegen_edge.transformers.cache import CodeGenEdgeCache
from codegen_edge.transformers.configuration import CodeGenEdgeConfig
from codegen_edge.transformers.padding import check_positions, real_columns, require_cpu, token_array
from codegen_edge.transformers.unsupported import check_forward, check_generation, refuse_batches

# What transformers calls the past; 5.24 renamed it and takes the old name with a warning.
CACHE_NAME = "cache" if "cache" in {field.name for field in fields(CausalLMOutputWithPast)} else "past_key_values"


class CodeGenEdgeForCausalLM(BundleModel, GenerationMixin):  # type: ignore[misc]  # transformers is untyped
    """A text-generation bundle as a model that generates; use it as a context manager, or call `close`.

    Args:
        config: of the bundle.
        runtime: computes the logits.
        generation_config: how `generate` goes on by default.
    """

    def __init__(
        self, config: CodeGenEdgeConfig, runtime: Runtime, generation_config: GenerationConfig | None = None
    ) -> None:
        super().__init__(config)
        self.runtime = runtime
        if generation_config is not None:
            self.generation_config = generation_config

    @classmethod
    def _open(
        cls, bundle: Bundle, config: CodeGenEdgeConfig, runtime: str, options: dict[str, Any]
    ) -> CodeGenEdgeForCausalLM:
        bundle.require_task("text-generation")
        has_file = (bundle.path / "generation_config.json").is_file()
        generation_config = GenerationConfig.from_pretrained(bundle.path) if has_file else None
        return cls(config, open_runtime(runtime, bundle, **options), generation_config)

    def new_cache(self, capacity: int | None = None) -> CodeGenEdgeCache:
        """An empty past, for several calls of `generate` or of the model that go on from one another.

        Args:
            capacity: tokens of a row that memory is made for at once; it grows.
        """
        return CodeGenEdgeCache(self.runtime, capacity)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: CodeGenEdgeCache | None = None,
        cache: CodeGenEdgeCache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Append tokens to a past and return logits.

        Args:
            input_ids: [B, T] integers, the new tokens.
            attention_mask: [B, past + T], 0 for padding, which may stand left or right; None means no padding.
            position_ids: checked, and computed when left out.
            past_key_values: the past, a CodeGenEdgeCache of this model; None begins a new one.
            cache: the same, under the name of newer versions of transformers.
            use_cache: whether a new past is returned; None takes the config's word.
            logits_to_keep: the last positions whose logits are wanted, or a tensor of positions; 0 means all.
            return_dict: False returns a tuple.
            **kwargs: of transformers' CodeGenForCausalLM; refused when they are given.

        Returns:
            CausalLMOutputWithPast with `logits` [B, kept, V] float32. Padding has those of the row's last token.
        """
        check_forward(kwargs)
        if input_ids is None:
            raise InvalidInputError("input_ids are missing")
        token_ids = token_array(input_ids)
        num_rows, num_new = token_ids.shape
        past = self._past(past_key_values if cache is None else cache, num_rows)
        is_real_past = past.is_real if past.is_initialized else np.zeros((num_rows, 0), np.bool_)
        is_real = real_columns(attention_mask, (num_rows, num_new), is_real_past)
        check_positions(position_ids, is_real, is_real_past)
        num_kept = logits_to_keep if isinstance(logits_to_keep, int) and logits_to_keep > 0 else num_new
        logits = torch.from_numpy(past.extend(token_ids, is_real, min(num_kept, num_new)))
        if isinstance(logits_to_keep, torch.Tensor):
            logits = logits[:, logits_to_keep]
        is_kept = (
            past_key_values is not None
            or cache is not None
            or (self.config.use_cache if use_cache is None else use_cache)
        )
        output = CausalLMOutputWithPast(logits=logits, **({CACHE_NAME: past} if is_kept else {}))
        return output if return_dict is not False else output.to_tuple()

    def _past(self, given: Any, num_rows: int) -> CodeGenEdgeCache:
        if given is None:
            return self.new_cache()
        if not isinstance(given, CodeGenEdgeCache) or given.runtime is not self.runtime:
            raise InvalidInputError(
                f"the past is a {type(given).__name__} of another model; new_cache() of this model makes one that goes "
                "with it"
            )
        if given.is_initialized and given.batch_size != num_rows:
            raise InvalidInputError(f"input_ids has {num_rows} rows, the past {given.batch_size}")
        return given

    def generate(self, inputs: torch.Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """Generate as transformers does; see GenerationMixin.generate.

        A right-padded row goes on after its last token, as it would alone.

        Raises:
            InvalidInputError: a tensor that is not on cpu, a row without tokens, an option that a bundle does not have.
        """
        require_cpu(inputs=inputs, **kwargs)
        mask = kwargs.get("attention_mask")
        if mask is not None and mask.ndim == 2 and not mask.bool().any(dim=1).all():
            raise InvalidInputError("attention_mask has a row without a token; leave that row out")
        if kwargs.get("cache_implementation") == "paged":
            refuse_batches()
        return super().generate(inputs, *args, **kwargs)

    def generate_batch(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused."""
        refuse_batches()

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused."""
        refuse_batches()

    def _prepare_generation_config(self, *args: Any, **kwargs: Any) -> tuple[GenerationConfig, dict[str, Any]]:
        config, model_kwargs = super()._prepare_generation_config(*args, **kwargs)
        check_generation(config, model_kwargs)
        return config, model_kwargs

    def _prepare_position_ids_for_generation(self, *args: Any, **kwargs: Any) -> None:
        """None: a row's tokens count themselves, also where padding stands right of them."""

    def _prepare_cache_for_generation(
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        given = model_kwargs.get(CACHE_NAME)
        if given is not None:
            self._past(given, given.batch_size if isinstance(given, CodeGenEdgeCache) else 0)
            given._is_user_defined = True
        elif generation_config.use_cache is not False:
            model_kwargs[CACHE_NAME] = self.new_cache(generation_config.max_length)

    def close(self) -> None:
        """Free the runtime."""
        self.runtime.close()

"""What both models are to transformers: a PreTrainedModel without parameters, opened from a bundle."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import torch
from transformers import PreTrainedModel

from codegen_edge.bundle import Bundle, Check, open_bundle
from codegen_edge.bundle.model_config import ModelConfig
from codegen_edge.errors import InvalidInputError
from codegen_edge.transformers.configuration import CodeGenEdgeConfig
from codegen_edge.transformers.unsupported import refuse, refuse_training, runtime_options


class BundleModel(PreTrainedModel):  # type: ignore[misc]  # transformers is untyped
    """Its tensors are float32 on cpu, whatever the runtime computes in and on."""

    config_class = CodeGenEdgeConfig
    base_model_prefix = "transformer"
    main_input_name = "input_ids"

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        config: Any = None,
        runtime: str = "cpu",
        check: Check = "full",
        **options: Any,
    ) -> Self:
        """Open a bundle. Weights of torch are never read.

        Args:
            pretrained_model_name_or_path: the bundle's folder.
            config: a CodeGenEdgeConfig of this bundle; None reads the bundle's.
            runtime: "cpu", "cuda", "tensorrt", "static-cpu", or one that was registered.
            check: "full" compares every file's sha256, "size" the sizes only.
            **options: of the runtime, as in `load_model`.

        Raises:
            BundleError: the folder is no bundle, or one of another task or target.
            InvalidInputError: an option that a bundle does not have.
            RuntimeUnavailableError: the runtime cannot be had here.
        """
        given = runtime_options(options)
        bundle = open_bundle(pretrained_model_name_or_path, check=check)
        if config is None:
            config = CodeGenEdgeConfig.from_pretrained(bundle.path)
        elif ModelConfig.from_dict(config.to_dict()) != bundle.manifest.model:
            raise InvalidInputError(f"config is not that of {bundle.path}; leave it out")
        config.architectures = [cls.__name__]
        model = cls._open(bundle, config, runtime, given)
        model.bundle = bundle
        model.eval()
        return model

    @classmethod
    def _open(cls, bundle: Bundle, config: CodeGenEdgeConfig, runtime: str, options: dict[str, Any]) -> Self:
        raise NotImplementedError

    @classmethod
    def _from_config(cls, *args: Any, **kwargs: Any) -> NoReturn:
        refuse("a model from a config alone", "its weights are those of a bundle; from_pretrained opens one")

    @property
    def device(self) -> torch.device:
        """Where its inputs and outputs lie."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Of its outputs."""
        return torch.float32

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Stay on cpu in float32; anything else is refused."""
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        if device is not None and device.type != "cpu":
            refuse(f"moving the model to {device}", 'from_pretrained(…, runtime="cuda") computes on a GPU')
        if dtype not in (None, torch.float32):
            refuse(f"{dtype}", "codegen-edge build --compute or quantize writes a bundle of another precision")
        return self

    def cuda(self, device: Any = None) -> Self:
        """Refused."""
        return self.to("cuda" if device is None else device)

    def half(self, *args: Any) -> Self:
        """Refused."""
        return self.to(torch.float16)

    def bfloat16(self, *args: Any) -> Self:
        """Refused."""
        return self.to(torch.bfloat16)

    def double(self, *args: Any) -> Self:
        """Refused."""
        return self.to(torch.float64)

    def train(self, mode: bool = True) -> Self:
        """Refused, but for `train(False)`."""
        if mode:
            refuse_training()
        super().train(False)
        return self

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: the bundle is what there is to save."""
        refuse("save_pretrained", f"copy the folder of the bundle, {self.config.name_or_path}")

    def get_input_embeddings(self) -> NoReturn:
        """Refused: the weights are inside the runtime."""
        refuse("access to the embeddings", "they are in the graph; change the checkpoint and export it again")

    def close(self) -> None:
        """Free the runtime."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

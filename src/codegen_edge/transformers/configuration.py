"""CodeGen's config under a model type of its own, so that the one of transformers keeps its classes."""

from __future__ import annotations

from typing import Any

from transformers import CodeGenConfig

MODEL_TYPE = "codegen_edge"


class CodeGenEdgeConfig(CodeGenConfig):  # type: ignore[misc]  # transformers is untyped
    """What `config.json` of a bundle says; it says `codegen` there, for the other programs that read it."""

    model_type = MODEL_TYPE

    @classmethod
    def get_config_dict(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The file's content, of our model type."""
        content, rest = super().get_config_dict(*args, **kwargs)
        return {**content, "model_type": MODEL_TYPE}, rest

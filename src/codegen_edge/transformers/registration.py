"""The auto classes of transformers find our classes by the config, and its pipelines know their names."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from codegen_edge.transformers.causal_lm import CodeGenEdgeForCausalLM
from codegen_edge.transformers.configuration import CodeGenEdgeConfig
from codegen_edge.transformers.headless import CodeGenEdgeModel


def register() -> None:
    """Register with AutoConfig, AutoModel and AutoModelForCausalLM; doing it twice is allowed."""
    AutoConfig.register(CodeGenEdgeConfig.model_type, CodeGenEdgeConfig, exist_ok=True)
    AutoModel.register(CodeGenEdgeConfig, CodeGenEdgeModel, exist_ok=True)
    AutoModelForCausalLM.register(CodeGenEdgeConfig, CodeGenEdgeForCausalLM, exist_ok=True)
    # The text-generation pipeline logs an error about every class that is not in this table, registered or not.
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[CodeGenEdgeConfig.model_type] = CodeGenEdgeForCausalLM.__name__

"""Tracing transformers' own CodeGen without weights."""

from __future__ import annotations

import contextlib
import io
import logging
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import onnx_ir as ir
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from codegen_edge.exporter.checkpoint import Checkpoint

OPSET = 21  # the newest that transformers.js, OpenVINO and onnxruntime-genai all read
_TANH_GELU = {"gelu_new", "gelu_fast", "gelu_pytorch_tanh"}

AttentionForward = Callable[..., tuple[torch.Tensor, None]]


def transformers_config(checkpoint: Checkpoint) -> Any:
    """The checkpoint's mended config as a `transformers.CodeGenConfig`."""
    from transformers import CodeGenConfig

    fields = {key: value for key, value in checkpoint.hub_config.items() if key != "model_type"}
    return CodeGenConfig(**fields, attn_implementation="eager")


def fake_causal_lm(checkpoint: Checkpoint, attention: AttentionForward) -> Any:
    """`CodeGenForCausalLM` with every attention's forward swapped; call it under `FakeTensorMode`.

    Its tanh-form GELU is swapped for torch's, which computes the same formula and traces to one operator.
    """
    from transformers import CodeGenForCausalLM

    config = transformers_config(checkpoint)
    config.tie_word_embeddings = False  # tied heads are stored twice: Gather and MatMul want two layouts
    model = CodeGenForCausalLM(config).eval()
    for block in model.transformer.h:
        block.attn.forward = types.MethodType(attention, block.attn)
        if config.activation_function in _TANH_GELU:
            block.mlp.act = nn.GELU(approximate="tanh")
    return model


def trace(make_call: Callable[[], tuple[nn.Module, tuple[Any, ...], Any]]) -> ir.Model:
    """Trace a module under `FakeTensorMode`: shapes and operators, no weights.

    Args:
        make_call: gives the module, its example arguments and their dynamic shapes; called under the fake mode.

    Returns:
        The graph as torch translates it, not cleaned; its initializers have no values.
    """
    with FakeTensorMode(), _quiet():
        module, arguments, dynamic_shapes = make_call()
        program = torch.export.export(module, arguments, dynamic_shapes=dynamic_shapes, strict=False)
        onnx_program = torch.onnx.export(program, dynamo=True, opset_version=OPSET, optimize=False, verbose=False)
    assert onnx_program is not None
    model: ir.Model = onnx_program.model
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch says of operators that CodeGen has not (torchvision's), and its own deprecations."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.filterwarnings("ignore", category=FutureWarning, message=".*LeafSpec.*")
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            yield
    finally:
        registration.setLevel(level)

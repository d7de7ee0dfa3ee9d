"""What a bundle cannot be or do is refused by name; nothing falls back to weights of torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache, GenerationConfig, pipeline

from codegen_edge.bundle import Bundle
from codegen_edge.errors import BundleError, InvalidInputError
from codegen_edge.transformers import CodeGenEdgeConfig, CodeGenEdgeForCausalLM
from codegen_edge.transformers.causal_lm import CACHE_NAME
from tests.transformers.conftest import Pair

IDS = torch.tensor([[5, 300, 17]])


def test_bundle_of_another_kind_is_refused(
    tiny_checkpoint: Path, feature_bundle: Bundle, static_bundle: Bundle, tmp_path: Path
) -> None:
    for path, said in (
        (tiny_checkpoint, "is no bundle: it has no bundle.json"),
        (tmp_path / "nothing", "is not a folder; export a checkpoint to it first"),
        (feature_bundle.path, "exported for feature-extraction; this needs a bundle for text-generation"),
        (static_bundle.path, "is a graph for tensorrt; runtime cpu needs target ort"),
    ):
        with pytest.raises(BundleError, match=said):
            CodeGenEdgeForCausalLM.from_pretrained(path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"runtime": "tpu"}, "there is no runtime 'tpu'"),
        ({"threds": 2}, "runtime cpu has no threds; it has: threads, exact_steps"),
        ({"dtype": torch.float16}, "dtype=torch.float16 is not supported: codegen-edge build --compute"),
        ({"torch_dtype": "bfloat16"}, "torch_dtype=bfloat16 is not supported"),
        ({"device_map": {"": 0}}, 'device_map=.* is not supported: runtime="cuda"'),
        ({"load_in_8bit": True}, "load_in_8bit is not supported: codegen-edge quantize"),
        ({"attn_implementation": "sdpa"}, "attn_implementation is not supported"),
        ({"state_dict": {}}, "state_dict is not supported"),
        ({"config": CodeGenEdgeConfig()}, "config is not that of"),
    ],
    ids=str,
)
def test_option_of_loading_is_refused(options: dict[str, Any], said: str, tiny_bundle: Bundle) -> None:
    with pytest.raises(InvalidInputError, match=said):
        CodeGenEdgeForCausalLM.from_pretrained(tiny_bundle.path, check="size", **options)


def test_options_that_change_nothing_are_taken(tiny_bundle: Bundle) -> None:
    CodeGenEdgeForCausalLM.from_pretrained(
        tiny_bundle.path,
        check="size",
        dtype=torch.float32,
        device_map="auto",
        low_cpu_mem_usage=True,
        trust_remote_code=False,
        revision="main",
        threads=1,
    ).close()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"output_attentions": True, "return_dict_in_generate": True}, "output_attentions is not supported"),
        ({"output_hidden_states": True, "return_dict_in_generate": True}, "output_hidden_states is not supported"),
        ({"cache_implementation": "static"}, "cache_implementation is not supported: .*--kv-cache int8"),
        ({"cache_implementation": "paged"}, "continuous batching is not supported: codegen-edge serve"),
        ({"assistant_early_exit": 1}, "assistant_early_exit is not supported: .*prompt_lookup_num_tokens"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "penalty_alpha is not supported: .*do_sample"),
        ({"dola_layers": "low"}, "dola_layers is not supported"),
        ({"inputs_embeds": torch.ones(1, 3, 64)}, "inputs_embeds is not supported"),
        ({"token_type_ids": IDS}, "token_type_ids is not supported"),
        ({"position_ids": torch.tensor([[4, 2, 9]])}, "position_ids of row 0 contradict"),
        ({"attention_mask": torch.zeros(1, 3)}, "attention_mask has a row without a token"),
        ({"attention_mask": torch.ones(1, 3, device="meta")}, "attention_mask is on meta; pass it on cpu"),
        ({CACHE_NAME: DynamicCache()}, "the past is a DynamicCache of another model"),
    ],
    ids=str,
)
def test_option_of_generate_is_refused(options: dict[str, Any], said: str, pair: Pair) -> None:
    with pytest.raises(InvalidInputError, match=said) as caught:
        pair.edge.generate(input_ids=IDS, max_new_tokens=2, **options)
    assert "\n" not in str(caught.value)


def test_option_in_a_generation_config_is_refused(pair: Pair) -> None:
    config = GenerationConfig(max_new_tokens=2, output_hidden_states=True, return_dict_in_generate=True)
    with pytest.raises(InvalidInputError, match="output_hidden_states is not supported"):
        pair.edge.generate(IDS, generation_config=config)
    with pytest.raises(InvalidInputError, match="inputs is on meta"):
        pair.edge.generate(IDS.to("meta"))


def test_past_of_another_model_is_refused(pair: Pair, drafters: Pair) -> None:
    with pytest.raises(InvalidInputError, match="the past is a CodeGenEdgeCache of another model"):
        pair.edge.generate(IDS, max_new_tokens=2, **{CACHE_NAME: drafters.edge.new_cache()})


def test_model_neither_moves_nor_trains_nor_saves_itself(pair: Pair, tmp_path: Path) -> None:
    model = pair.edge
    assert model.to("cpu") is model.to(torch.float32) is model.eval() is model.train(False) is model
    assert (model.device.type, model.dtype, model.num_parameters()) == ("cpu", torch.float32, 0)
    for forbidden, said in (
        (lambda: model.to("cuda"), r'moving the model to cuda is not supported: .*runtime="cuda"'),
        (lambda: model.to(torch.float16), "torch.float16 is not supported: codegen-edge build"),
        (model.cuda, "moving the model to cuda"),
        (model.half, "torch.float16 is not supported"),
        (model.bfloat16, "torch.bfloat16 is not supported"),
        (model.double, "torch.float64 is not supported"),
        (model.train, "training is not supported"),
        (model.get_input_embeddings, "access to the embeddings is not supported"),
        (lambda: model.save_pretrained(tmp_path), "save_pretrained is not supported: copy the folder"),
        (lambda: model.generate_batch([[1]]), "codegen-edge serve batches continuously"),
        (lambda: type(model)._from_config(model.config), "from_pretrained opens one"),
    ):
        with pytest.raises(InvalidInputError, match=said):
            forbidden()


def test_pipeline_on_a_gpu_is_refused(pair: Pair, tokenizer: Any) -> None:
    with pytest.raises(InvalidInputError, match="moving the model to meta"):
        pipeline("text-generation", model=pair.edge, tokenizer=tokenizer, device="meta")

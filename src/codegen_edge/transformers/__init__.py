"""A bundle as a model of transformers: `generate`, `pipeline` and whatever else drives a GenerationMixin.

    from codegen_edge.transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained("my-bundle")
    model = AutoModelForCausalLM.from_pretrained("my-bundle", runtime="cpu")
    completion = model.generate(**tokenizer("def hello_world():", return_tensors="pt"))
    print(tokenizer.decode(completion[0]))

`AutoModelForCausalLM` and `AutoModel` here are CodeGenEdgeForCausalLM and CodeGenEdgeModel: they open bundles only.
Importing this package needs the extra `transformers`, and registers both with the auto classes of transformers under
the model type `codegen_edge`; what these do with other models stays as it is.
"""

from codegen_edge.dependencies import disable_telemetry, install_command, installed_version, require_versions
from codegen_edge.errors import RuntimeUnavailableError

require_versions("torch", "transformers")
disable_telemetry()

for _package in ("torch", "transformers"):
    if installed_version(_package) is None:
        raise RuntimeUnavailableError(f"{_package} is not installed: {install_command('transformers')}")

from transformers import AutoTokenizer

from codegen_edge.transformers.cache import CodeGenEdgeCache
from codegen_edge.transformers.causal_lm import CodeGenEdgeForCausalLM
from codegen_edge.transformers.configuration import CodeGenEdgeConfig
from codegen_edge.transformers.headless import CodeGenEdgeModel
from codegen_edge.transformers.registration import register

AutoModelForCausalLM = CodeGenEdgeForCausalLM
AutoModel = CodeGenEdgeModel

register()

__all__ = [
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoTokenizer",
    "CodeGenEdgeCache",
    "CodeGenEdgeConfig",
    "CodeGenEdgeForCausalLM",
    "CodeGenEdgeModel",
]

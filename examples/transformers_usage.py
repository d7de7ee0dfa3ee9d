"""Drive a bundle with transformers: the model's documented usage, a batch with beams, a stream, and a drafting model.

Needs the extras `transformers` and `cpu`. What is generated is what transformers' own CodeGenForCausalLM generates:

    python examples/transformers_usage.py my-bundle
"""

from __future__ import annotations

import sys

from transformers import TextStreamer, pipeline

from codegen_edge.transformers import AutoModelForCausalLM, AutoTokenizer

PROMPT = "def hello_world():"
BATCH = ["def add(a, b):\n    return", "class Stack:\n    def push(self, item):\n"]


def main(bundle: str) -> None:
    """Print continuations, each by another feature of transformers.

    Args:
        bundle: a folder for text generation.
    """
    tokenizer = AutoTokenizer.from_pretrained(bundle)
    tokenizer.pad_token = tokenizer.eos_token
    with AutoModelForCausalLM.from_pretrained(bundle, runtime="cpu") as model:
        print("--- greedy")
        completion = model.generate(**tokenizer(PROMPT, return_tensors="pt"), max_new_tokens=24)
        print(tokenizer.decode(completion[0]))

        print("--- beams of a padded batch")
        inputs = tokenizer(BATCH, return_tensors="pt", padding=True, padding_side="left")
        for row in model.generate(**inputs, num_beams=3, max_new_tokens=16):
            print(tokenizer.decode(row, skip_special_tokens=True))

        print("--- streamed, with tokens drafted from the prompt")
        streamer = TextStreamer(tokenizer)
        inputs = tokenizer(PROMPT, return_tensors="pt")
        model.generate(**inputs, streamer=streamer, prompt_lookup_num_tokens=3, max_new_tokens=24)

        print("--- pipeline")
        generator = pipeline("text-generation", model=model, tokenizer=tokenizer)
        print(generator(PROMPT, do_sample=False, max_new_tokens=24)[0]["generated_text"])


if __name__ == "__main__":
    main(*sys.argv[1:])

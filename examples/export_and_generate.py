"""Export the checkpoint that ships, and generate from the bundle.

Needs the extras `export` and `cpu`, and no network. The bundle appears only after every logit was compared with the
reference implementation in transformers:

    python examples/export_and_generate.py my-bundle
"""

from __future__ import annotations

import sys

import codegen_edge

PROMPT = "def read_lines(path):\n    "


def main(out: str) -> None:
    """Export to a folder, then print greedy, sampled and streamed continuations of one prompt.

    Args:
        out: a new folder; one that exists is not replaced.
    """
    exported = codegen_edge.export("codegen-5M-mono", out)
    size_mb = exported.bundle.size_bytes / 1e6
    print(f"{out}: {size_mb:.1f} MB, equal to the reference: {exported.is_equal}")

    with codegen_edge.load_model(out) as model:
        completion = model.generate(PROMPT, max_new_tokens=32)
        print(f"\n--- greedy, ended by {completion.finish_reason}")
        print(PROMPT + completion.text)

        # Parameters that several calls share are checked once; a call may replace some of them by keyword.
        params = codegen_edge.GenerationParams(
            max_new_tokens=96, temperature=0.4, top_p=0.95, repetition_penalty=1.1, single_block=True
        )
        for seed in (0, 1):
            completion = model.generate(PROMPT, params, seed=seed)
            print(f"\n--- sampled with seed {seed}, ended by {completion.finish_reason}")
            print(PROMPT + completion.text.rstrip())

        print("\n--- streamed")
        print(PROMPT, end="")
        for event in model.stream(PROMPT, max_new_tokens=32):
            print(event.text, end="", flush=True)
        print()


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Ask a running server through LangChain, whose class for OpenAI's completions needs nothing of ours.

LangChain comes by itself: `pip install langchain-openai`. With `codegen-edge serve my-bundle` in another terminal:

    python examples/langchain_client.py my-bundle
"""

from __future__ import annotations

import sys

PROMPT = "def fibonacci(n):\n    "


def main(model: str, url: str = "http://127.0.0.1:8080/v1") -> None:
    """Print a completion, then the same one piece by piece.

    Args:
        model: as the server lists it, the name of the bundle's folder.
        url: of the server's OpenAI routes.
    """
    from langchain_openai import OpenAI

    completions = OpenAI(model=model, base_url=url, api_key="none", temperature=0, max_tokens=32, top_p=1, n=1)
    print(PROMPT + completions.invoke(PROMPT))
    for piece in completions.stream(PROMPT):
        print(piece, end="", flush=True)
    print()


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/").rpartition("/")[2])

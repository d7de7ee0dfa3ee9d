"""Continue one text turn by turn with a `Session`; tokens that were read once are not read again.

The bundle may be the one that `examples/export_and_generate.py` writes. The session is saved to the second argument:

    python examples/chat_session.py my-bundle chat.session
"""

from __future__ import annotations

import sys

import codegen_edge


def main(bundle: str, saved: str) -> None:
    """Write two functions, undo the second one, write it in two ways, and continue from a saved file.

    Args:
        bundle: a folder for text generation.
        saved: the file to save the session to; an existing one is replaced.
    """
    params = codegen_edge.GenerationParams(
        max_new_tokens=96, temperature=0.4, top_p=0.95, repetition_penalty=1.1, seed=0, single_block=True
    )
    with codegen_edge.load_model(bundle) as model:
        session = model.session()
        session.append("def read_lines(path):\n    ")
        session.generate(params)
        show("first turn", session)

        mark = session.num_tokens  # a place to return to
        session.append("\ndef write_lines(path, lines):\n    ")
        session.generate(params)
        show("second turn", session)

        session.rewind(mark)
        show("second turn undone", session)

        fork = session.fork()  # both continue from here; neither sees what the other generates
        for seed, each in enumerate((session, fork)):
            each.append("\ndef write_lines(path, lines):\n    ")
            each.generate(params, seed=seed)
        show("second turn again", session)
        show("second turn of the fork", fork)

        session.save(saved)

    # The file holds the text with its keys and values, so another process continues without reading the text again.
    with codegen_edge.load_model(bundle) as model:
        loaded = model.load_session(saved)
        loaded.append("\nclass ")
        loaded.generate(params, on_prefill=lambda read, total: print(f"reading token {read} of {total}"))
        show("third turn, of the loaded session", loaded)


def show(title: str, session: codegen_edge.Session) -> None:
    """Print the text so far."""
    print(f"--- {title}: {session.num_tokens} tokens")
    print(session.text)


if __name__ == "__main__":
    main(*sys.argv[1:])

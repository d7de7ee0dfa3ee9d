from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import CodeGenTokenizer

from codegen_edge.bundle import Bundle
from codegen_edge.generation.text import Cut, TextAssembler
from codegen_edge.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tiny_bundle: Bundle) -> Tokenizer:
    return Tokenizer(tiny_bundle.tokenizer_path)


def feed(tokenizer: Tokenizer, token_ids: list[int], stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    """The pieces, and whether a stop string was met."""
    assembler = TextAssembler(tokenizer, Cut(stop))
    pieces = []
    for token_id in token_ids:
        pieces.append(assembler.add(token_id))
        if assembler.is_stopped:
            return pieces, True
    return [*pieces, assembler.finish()], assembler.is_stopped


def test_pieces_of_any_tokens_join_to_the_decoded_text(tokenizer: Tokenizer) -> None:
    @given(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=20))
    def check(token_ids: list[int]) -> None:
        assert "".join(feed(tokenizer, token_ids)[0]) == tokenizer.decode(token_ids)

    check()


def test_character_of_several_tokens_comes_whole(tokenizer: Tokenizer) -> None:
    token_ids = tokenizer.encode("世界🌍")
    pieces, _ = feed(tokenizer, token_ids)
    assert len(token_ids) > 3
    assert [piece for piece in pieces if piece] == ["世", "界", "🌍"]


def test_text_is_cut_at_the_earliest_stop_as_whole_text_would_be(tokenizer: Tokenizer) -> None:
    @given(
        st.text("ab\n é", max_size=30),
        st.lists(st.text("ab\n é", min_size=1, max_size=4), min_size=1, max_size=3),
    )
    def check(text: str, stops: list[str]) -> None:
        pieces, is_stopped = feed(tokenizer, tokenizer.encode(text), tuple(stops))
        ends = [index for index in map(text.find, stops) if index >= 0]
        joined = "".join(pieces)
        assert is_stopped == bool(ends)
        if not ends:
            assert joined == text
            return
        # The first stop to be complete ends the text; of those that one token completes, the earliest.
        assert text.startswith(joined)
        assert any(text.startswith(joined + stop) for stop in stops)
        assert not any(stop in joined for stop in stops)

    check()


def test_no_piece_ever_holds_a_part_of_the_stop_that_follows(tokenizer: Tokenizer) -> None:
    pieces, is_stopped = feed(tokenizer, tokenizer.encode("return 1\n\n\ndef"), ("\n\n\n",))
    assert is_stopped
    assert "".join(pieces) == "return 1"


def test_text_held_back_for_a_stop_that_never_comes_is_released(tokenizer: Tokenizer) -> None:
    pieces, is_stopped = feed(tokenizer, tokenizer.encode("end\n\n"), ("\n\n\n",))
    assert not is_stopped
    assert "".join(pieces) == "end\n\n"
    assert pieces[-1] == "\n\n"


PIECES = (
    "print(1)\n",
    "def f():\n",
    "    x\n",
    "printed\n",
    "define\n",
    "\n",
    "# a\n",
    "pri",
    "de",
    "é🌍",
    "y = 2",
    "'''\n",
)
PATTERNS = ("^#", "\n\n\n", "^'''", "y.*2")


def test_truncation_is_that_of_codegens_tokenizer() -> None:
    reference = object.__new__(CodeGenTokenizer)

    @given(st.lists(st.sampled_from(PIECES), max_size=12), st.lists(st.sampled_from(PATTERNS), max_size=2, unique=True))
    def check(pieces: list[str], patterns: list[str]) -> None:
        text = "".join(pieces)
        end = Cut(truncate_before=patterns, single_block=True).find(text)
        kept = text if end is None else text[:end]
        assert kept == CodeGenTokenizer.truncate(reference, text, patterns)

    check()


def test_streamed_text_never_has_to_be_taken_back(tokenizer: Tokenizer) -> None:
    @given(st.lists(st.sampled_from(PIECES), max_size=12), st.booleans())
    def check(pieces: list[str], has_stop: bool) -> None:
        text = "".join(pieces)
        cut = Cut(("x\n",) if has_stop else (), single_block=True)
        assembler = TextAssembler(tokenizer, cut)
        joined = ""
        for token_id in tokenizer.encode(text):
            joined += assembler.add(token_id)
            if assembler.is_stopped:
                break
        joined += assembler.finish()
        end = cut.find(text)
        assert joined == (text if end is None else text[:end])

    check()


def test_text_before_a_pattern_is_given_out_at_the_end_only(tokenizer: Tokenizer) -> None:
    assembler = TextAssembler(tokenizer, Cut(truncate_before=("^#",)))
    assert {assembler.add(token_id) for token_id in tokenizer.encode("x = 1\n")} == {""}
    assert assembler.finish() == "x = 1\n"


def test_pattern_that_looks_ahead_waits_for_what_follows(tokenizer: Tokenizer) -> None:
    """Cut at the end of an indented block: the line end itself says nothing yet."""
    assembler = TextAssembler(tokenizer, Cut(truncate_before=(r"\n(?![ \t\n])",)))
    joined = ""
    for token_id in tokenizer.encode("a:\n  b\n  c\nd\n"):
        joined += assembler.add(token_id)
        if assembler.is_stopped:
            break
    assert joined + assembler.finish() == "a:\n  b\n  c"

from __future__ import annotations

from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as BackendTokenizer

from codegen_edge.bundle import Bundle
from codegen_edge.errors import BundleError, InvalidInputError
from codegen_edge.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tiny_bundle: Bundle) -> Tokenizer:
    return Tokenizer(tiny_bundle.tokenizer_path)


TRICKY = (
    "x != y",
    "\n    return  x\n\t\tif",
    "Grüße, 世界 🌍👩‍💻",
    " " * 40 + "\t" * 12,
    "a\r\nb\0c\ufeff",
    "<|endoftext|>",
    "שלום",
)


@pytest.mark.parametrize("text", TRICKY)
def test_text_survives_a_round_trip(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_any_text_survives_a_round_trip(tokenizer: Tokenizer) -> None:
    @given(st.text(st.characters(exclude_categories=["Cs"])))
    def check(text: str) -> None:
        assert tokenizer.decode(tokenizer.encode(text)) == text

    check()


def test_decoding_any_ids_equals_the_library(tokenizer: Tokenizer, tiny_bundle: Bundle) -> None:
    backend = BackendTokenizer.from_file(str(tiny_bundle.tokenizer_path))
    ids = st.integers(0, tokenizer.vocab_size - 1)

    @given(st.lists(ids, max_size=12))
    def check(token_ids: list[int]) -> None:
        assert tokenizer.decode(token_ids) == backend.decode(token_ids, skip_special_tokens=False)

    check()


def test_runs_of_spaces_and_tabs_are_single_tokens(tokenizer: Tokenizer) -> None:
    first_run = tokenizer.end_of_text_id
    assert first_run is not None
    for length in range(2, 32):
        assert tokenizer.encode(" " * length) == [first_run + 32 - length]
    for length in range(2, 10):
        assert tokenizer.encode("\t" * length) == [first_run + 30 + 10 - length]


@pytest.mark.parametrize("token_id", [-1, 10**6])
def test_unknown_id_is_refused(tokenizer: Tokenizer, token_id: int) -> None:
    with pytest.raises(InvalidInputError, match=str(token_id)):
        tokenizer.token_bytes(token_id)


def test_lone_surrogate_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidInputError, match="character 2"):
        tokenizer.encode("ab\ud800")


def test_file_that_is_no_tokenizer_is_refused(bundle_copy: Bundle) -> None:
    bundle_copy.tokenizer_path.write_text("{}")
    with pytest.raises(BundleError, match="no tokenizer"):
        Tokenizer(bundle_copy.tokenizer_path)


def test_the_vocabulary_is_built_once(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library makes it anew for every question: 50 ms at CodeGen's size, which a chat turn asks several times."""
    tokenizer = Tokenizer(tiny_bundle.tokenizer_path)
    sizes, fingerprint = tokenizer.vocab_size, tokenizer.fingerprint

    class Silent:
        def get_vocab(self, **_: Any) -> NoReturn:
            pytest.fail("the vocabulary was built again")

    monkeypatch.setattr(tokenizer, "_backend", Silent())
    assert (tokenizer.vocab_size, tokenizer.fingerprint) == (sizes, fingerprint)

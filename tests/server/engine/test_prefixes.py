"""Prompts that were read are kept for prompts that begin alike, within their bytes and for their owner only."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_edge.runtimes.backends.scripted import ScriptedCache
from codegen_edge.server.engine.prefixes import PrefixCache
from tests.server.engine.fakes import KINDS, running, runtime_of, sampled

CAPACITY = 256
BASE = tuple(range(1, 25))  # 24 tokens


def prefixes(max_bytes: int = 10_000, bytes_per_token: int = 1) -> PrefixCache:
    return PrefixCache(runtime_of(), bytes_per_token=bytes_per_token, max_bytes=max_bytes)


def read(*prompts: Sequence[int]) -> ScriptedCache:
    """A cache whose rows hold prompts."""
    cache = ScriptedCache(len(prompts), CAPACITY)
    cache.sequences = [list(prompt) for prompt in prompts]
    return cache


def keep(kept: PrefixCache, prompt: Sequence[int], owner: str = "a") -> None:
    kept.keep(owner, tuple(prompt), read(prompt), 0)


def found(kept: PrefixCache, prompt: Sequence[int], owner: str = "a") -> list[int]:
    """The tokens that need not be read."""
    prefix = kept.find(owner, tuple(prompt))
    if prefix is None:
        return []
    assert isinstance(prefix.cache, ScriptedCache)
    (sequence,) = prefix.cache.sequences
    assert prefix.cache.capacity == len(sequence)
    return sequence[: prefix.length]


def test_longest_common_beginning_counts_whatever_follows() -> None:
    kept = prefixes()
    keep(kept, [*BASE[:20], 7, 7, 7])
    keep(kept, [*BASE, 8, 8])
    keep(kept, [*BASE[:18], 9])
    assert found(kept, [*BASE, 1, 2, 3]) == list(BASE)
    assert found(kept, [*BASE[:20], 7, 7]) == [*BASE[:20], 7]
    assert found(kept, [9, *BASE]) == []


def test_last_token_of_a_prompt_is_always_read() -> None:
    kept = prefixes()
    keep(kept, BASE)
    assert found(kept, BASE) == list(BASE[:-1])
    assert found(kept, BASE[:20]) == list(BASE[:19])
    assert found(kept, [1]) == []


def test_owners_are_kept_apart() -> None:
    kept = prefixes()
    keep(kept, BASE, "a")
    assert found(kept, BASE, "b") == []
    keep(kept, BASE, "b")
    assert kept.size_bytes == 2 * len(BASE)
    assert found(kept, BASE, "b") == list(BASE[:-1])
    assert found(kept, BASE, "") == []


def test_least_recently_used_ones_leave_where_the_bytes_do_not_suffice() -> None:
    kept = prefixes(max_bytes=2 * 3 * 20, bytes_per_token=2)
    first, second, third, fourth = ([number] * 20 for number in (1, 2, 3, 4))
    for prompt in (first, second, third):
        keep(kept, prompt)
    assert kept.size_bytes == 120
    found(kept, first)
    keep(kept, second)  # known already, and used by that
    keep(kept, fourth)
    assert kept.size_bytes == 120
    assert [bool(found(kept, prompt)) for prompt in (first, second, third, fourth)] == [True, True, False, True]


def test_longer_prompt_replaces_its_own_beginning() -> None:
    kept = prefixes()
    keep(kept, BASE[:20])
    keep(kept, BASE)
    assert kept.size_bytes == len(BASE)
    keep(kept, BASE[:18])
    assert kept.size_bytes == len(BASE)
    assert found(kept, [*BASE, 5]) == list(BASE)


def test_beginning_that_is_cheap_to_read_is_neither_kept_nor_copied() -> None:
    kept = prefixes()
    keep(kept, BASE[:15])
    assert kept.size_bytes == 0
    keep(kept, BASE[:16])
    assert found(kept, BASE[:16]) == []  # 15 without the last one
    assert found(kept, BASE[:17]) == list(BASE[:16])


def test_nothing_is_kept_in_no_bytes_and_a_prompt_that_is_too_large_drives_nobody_out() -> None:
    kept = prefixes(max_bytes=0)
    keep(kept, BASE)
    assert (kept.size_bytes, found(kept, BASE)) == (0, [])
    kept = prefixes(max_bytes=30)
    keep(kept, BASE)
    keep(kept, [3] * 31)
    assert found(kept, BASE) == list(BASE[:-1])


def test_kept_row_is_a_copy_of_the_prompt_alone() -> None:
    kept = prefixes()
    batch = read([9] * 30, BASE, [8])
    kept.keep("a", BASE, batch, 1)
    batch.sequences[1][0] = 9
    assert found(kept, [*BASE, 6, 5]) == list(BASE)
    assert batch.sequences[0] == [9] * 30


def test_tokens_that_were_looked_up_and_found_are_counted() -> None:
    kept = prefixes()
    found(kept, BASE)
    assert (kept.num_queried, kept.num_hit) == (24, 0)
    keep(kept, BASE)
    found(kept, [*BASE[:20], 30])
    assert (kept.num_queried, kept.num_hit) == (45, 20)


def test_all_is_forgotten_when_it_is_cleared() -> None:
    kept = prefixes()
    keep(kept, BASE)
    kept.clear()
    assert (kept.size_bytes, found(kept, BASE)) == (0, [])


PROMPTS = st.lists(st.integers(1, 2), max_size=8).map(lambda end: (*BASE[:20], *end))


@given(st.lists(st.tuples(st.sampled_from("ab"), PROMPTS)), st.sampled_from("ab"), PROMPTS)
def test_what_is_found_is_the_best_of_what_was_kept(
    known: list[tuple[str, tuple[int, ...]]], owner: str, wanted: tuple[int, ...]
) -> None:
    kept = prefixes()
    for each, prompt in known:
        keep(kept, prompt, each)
    best = 0
    for each, prompt in known:
        pairs = zip(prompt, wanted[:-1], strict=False)
        common = next(
            (place for place, (one, two) in enumerate(pairs) if one != two), min(len(prompt), len(wanted) - 1)
        )
        best = max(best, common if each == owner else 0)
    assert found(kept, wanted, owner) == list(wanted[:best])


@given(st.lists(st.integers(16, 40), max_size=20), st.integers(0, 120))
def test_kept_prompts_stay_within_their_bytes(lengths: list[int], max_bytes: int) -> None:
    kept = prefixes(max_bytes=max_bytes)
    for token_id, length in enumerate(lengths):
        keep(kept, [token_id] * length)
        assert kept.size_bytes <= max_bytes
        assert bool(found(kept, [token_id] * (length + 1))) == (length <= max_bytes)


@pytest.mark.parametrize("kind", KINDS)
def test_engine_reads_what_is_kept_once_and_only_for_its_owner(kind: Any) -> None:
    prompt = [1 + place % 7 for place in range(60)]
    with running(3, kind, prefix_bytes=1000) as rig:
        first = rig.submit(prompt, params=sampled(4, n=2), owner="a")
        rig.check(first)
        rig.runtime.steps.clear()
        again = rig.submit([*prompt, 9, 9], params=sampled(4, n=2), owner="a")
        rig.check(again)
        assert (first.num_cached, again.num_cached) == (0, 60)
        assert rig.runtime.steps[0] == (1, 2)
        stranger = rig.submit(prompt, owner="b")
        rig.check(stranger)
        assert stranger.num_cached == 0
        rig.check_is_empty()


def test_size_can_be_asked_by_another_thread_while_prompts_come_and_go() -> None:
    kept, is_over = prefixes(max_bytes=16 * 50), threading.Event()
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            while not is_over.is_set():
                assert 0 <= kept.size_bytes <= 16 * 50
        except BaseException as exc:  # noqa: BLE001
            failed.append(exc)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    asking = threading.Thread(target=ask)
    asking.start()
    try:
        until = time.monotonic() + 0.5
        while time.monotonic() < until and not failed:
            for number in range(100):
                keep(kept, [number] * 16)
    finally:
        sys.setswitchinterval(interval)
        is_over.set()
        asking.join()
    assert not failed

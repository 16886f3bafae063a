"""Cells, chats and stalls: who is asked what in which order, and what is made of it."""

import contextlib
from collections.abc import AsyncIterator
from functools import partial

import msgspec
import pytest

from benchmarks.cells import CELLS, DAEMON, Q4_0, Q4_K_M
from benchmarks.chats import added, run_chat
from benchmarks.errors import BenchmarkError
from benchmarks.measuring import Openers, describe, rotated, run_cell
from benchmarks.prefills import gaps_ms
from tests.support.benchmark import Noting, cell, level, sample


def silent(line: str) -> None:
    """Nobody reads it."""


class Opened:
    """Openers of noting contenders, and what went on."""

    def __init__(self, *names: str) -> None:
        self.asked: list[tuple[str, int]] = []
        self.clients: dict[str, int] = {}
        self.closed: set[str] = set()
        self.openers: Openers = {name: partial(self._open, name) for name in names}

    @contextlib.asynccontextmanager
    async def _open(self, name: str, clients: int) -> AsyncIterator[Noting]:
        self.clients[name] = clients
        try:
            yield Noting(name, self.asked)
        finally:
            self.closed.add(name)


async def test_each_round_has_its_own_texts_the_same_for_all_and_another_begins() -> None:
    opened = Opened(DAEMON, Q4_0)
    some = msgspec.structs.replace(cell("clients-4"), rounds=3)
    result = await run_cell(some, opened.openers, 5000, silent)
    warm_up, measured = opened.asked[:2], opened.asked[2:]
    assert {name for name, _ in warm_up} == {DAEMON, Q4_0}
    assert measured == [(DAEMON, 5000), (Q4_0, 5000), (Q4_0, 5001), (DAEMON, 5001), (DAEMON, 5002), (Q4_0, 5002)]
    assert not {seed for _, seed in warm_up} & {seed for _, seed in measured}
    assert [sorted(turn.levels) for turn in result.rounds] == [[DAEMON, Q4_0]] * 3
    assert opened.clients == {DAEMON: 4, Q4_0: 4}
    assert opened.closed == {DAEMON, Q4_0}


async def test_who_is_no_targets_rival_is_measured_once() -> None:
    opened = Opened(DAEMON, Q4_K_M)
    result = await run_cell(cell("clients-2"), opened.openers, 0, silent)
    assert [Q4_K_M in turn.levels for turn in result.rounds] == [True, False, False]


async def test_a_contender_that_is_left_out_is_left_out() -> None:
    opened = Opened(DAEMON)
    result = await run_cell(cell("clients-2"), opened.openers, 0, silent)
    assert {name for turn in result.rounds for name in turn.levels} == {DAEMON}


def test_cells_have_names_of_their_own() -> None:
    assert len({one.name for one in CELLS}) == len(CELLS)


def test_a_rotation_keeps_all() -> None:
    assert [rotated(["a", "b", "c"], turn) for turn in range(4)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
        ["a", "b", "c"],
    ]
    assert rotated([], 1) == []


def test_failures_are_told_where_people_look() -> None:
    assert "FAILED" in describe(level(failed=1))
    assert "FAILED" not in describe(level())


async def test_a_chat_is_compared_with_fresh_ones() -> None:
    asked: list[tuple[str, int]] = []
    run = await run_chat(Noting("someone", asked), 30, silent)
    assert [seed for _, seed in asked] == [30, 31, 32]
    assert (run.contender, len(run.turns)) == ("someone", 10)


def test_what_a_turn_added_is_the_answer_before_it_and_its_question() -> None:
    assert added([sample(prompt_tokens=500, tokens=48), sample(prompt_tokens=570)]) == (70, 22)


def test_a_chat_of_unknown_length_is_not_compared() -> None:
    with pytest.raises(BenchmarkError, match="lengths"):
        added([sample(prompt_tokens=None), sample(prompt_tokens=None)])


def test_gaps_are_those_that_reach_into_the_time_of_the_prompt() -> None:
    arrivals = [1.0, 2.0, 4.0, 5.0]
    assert gaps_ms(arrivals, 2.5, 4.5) == [2000, 1000]
    assert gaps_ms(arrivals, 0, 2.0) == [1000]
    assert gaps_ms(arrivals, 4.5, 9.0) == [1000, 4000]  # nothing came after 5.0
    assert gaps_ms([], 0, 9.0) == []

"""Which of several processes is the odd one, from the facts that each brings."""

from __future__ import annotations

import pytest

from trainer.distributed.agreement import INSTRUCTION_SET, LIMIT, differences, refuse_unless_alike
from trainer.errors import ProcessesDiffer


def test_processes_with_the_same_facts_may_begin() -> None:
    refuse_unless_alike({0: {"seed": "0"}, 1: {"seed": "0"}}, {0: "the chief", 1: "worker 1"})


@pytest.mark.parametrize(
    ("values", "odd"),
    [
        (["0", "2"], [1]),  # as many have one value as the other: the chief's counts
        (["0", "0", "2"], [2]),
        (["2", "0", "0"], [0]),
        (["0", "1", "2"], [1, 2]),
        (["0", "2", "2", "0"], [1, 2]),
    ],
)
def test_the_odd_one_is_the_one_that_is_not_like_most(values: list[str], odd: list[int]) -> None:
    found = differences({rank: {"seed": value} for rank, value in enumerate(values)})
    assert [rank for rank, *_ in found] == odd


def test_a_fact_that_one_process_lacks_is_a_difference() -> None:
    assert differences({0: {"code": "a"}, 1: {}}) == [(1, "code", "not there", "a")]
    assert differences({0: {}, 1: {"code": "a"}}) == [(1, "code", "a", "not there")]


def test_processors_may_differ_and_so_may_a_limit_with_which_they_compute_alike() -> None:
    old, new = {LIMIT: "not set", INSTRUCTION_SET: "AVX2"}, {LIMIT: "not set", INSTRUCTION_SET: "AVX512_CORE"}
    assert differences({0: old, 1: new}) == []
    assert differences({0: old, 1: {LIMIT: "AVX2", INSTRUCTION_SET: "AVX2"}}) == []


def test_a_limit_that_one_of_the_processes_alone_has_is_a_difference() -> None:
    free, limited = {LIMIT: "not set", INSTRUCTION_SET: "AVX512_CORE"}, {LIMIT: "SSE41", INSTRUCTION_SET: "SSE41"}
    assert differences({0: free, 1: limited}) == [(1, LIMIT, "SSE41", "not set")]


def test_a_refusal_names_few_of_many_differences() -> None:
    facts = {rank: {f"code of file {number}": str(rank) for number in range(40)} for rank in range(2)}
    with pytest.raises(ProcessesDiffer) as refused:
        refuse_unless_alike(facts, {0: "the chief, process 1 on a", 1: "worker 1, process 2 on b"})
    lines = str(refused.value).splitlines()
    assert lines[1] == "  worker 1, process 2 on b has code of file 0: 1; the others have: 0"
    assert lines[-2] == "  and 34 more differences"
    assert len(lines) == 9

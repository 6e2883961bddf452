"""Whether the processes of a run were started alike: each brings facts about itself, and the odd one is named.

Two processes with other code compute other shares of one sum. Nobody would notice: the run ends, with another loss. So
the facts are compared when the processes meet, before anything is computed.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Mapping, Sequence

from trainer.distributed.peers import CHIEF
from trainer.errors import ProcessesDiffer

Facts = Mapping[str, str]  # name of a fact → its value

ABSENT = "not there"
SHOWN = 6  # differences in a message
# Kernels are chosen by the instruction set. A variable that limits it may differ where the processors do, as long as
# all end up with the same one: an old processor needs no limit.
LIMIT, INSTRUCTION_SET = "ONEDNN_MAX_CPU_ISA", "instruction set"


def name_of(rank: int, process: int, host: str) -> str:
    """A process of the run, for messages: its rank, its number on its host, and the host."""
    return f"{'the chief' if rank == CHIEF else f'worker {rank}'}, process {process} on {host}"


def own_name(rank: int) -> str:
    """``name_of`` this process."""
    return name_of(rank, os.getpid(), socket.gethostname())


def refuse_unless_alike(facts: Mapping[int, Facts], names: Mapping[int, str]) -> None:
    """``facts`` and ``names`` (process and host, for messages) by rank.

    Raises:
        ProcessesDiffer: a fact of one process is not that of most; where as many have one value as another, the value
            of the chief counts. Names process, fact and both values.
    """
    found = differences(facts)
    if not found:
        return
    lines = [f"  {names[rank]} has {name}: {own}; the others have: {usual}" for rank, name, own, usual in found[:SHOWN]]
    if len(found) > SHOWN:
        lines.append(f"  and {len(found) - SHOWN} more differences")
    odd = [names[rank] for rank in dict.fromkeys(rank for rank, *_ in found)]
    raise ProcessesDiffer(
        "\n".join(
            [
                f"the processes of this run were not started alike, so nothing was computed; odd: {'; '.join(odd)}",
                *lines,
                "give all processes the same program, packages, environment variables and arguments",
            ]
        )
    )


def differences(facts: Mapping[int, Facts]) -> list[tuple[int, str, str, str]]:
    """Rank, name of the fact, its value in that process, and its value in most: every difference, by name."""
    names = dict.fromkeys(name for rank in sorted(facts) for name in facts[rank])
    found = []
    for name in names:
        if name == INSTRUCTION_SET or (name == LIMIT and _same(facts, INSTRUCTION_SET)):
            continue
        values = {rank: facts[rank].get(name, ABSENT) for rank in sorted(facts)}
        usual = _usual(list(values.values()))
        found += [(rank, name, value, usual) for rank, value in values.items() if value != usual]
    return found


def _same(facts: Mapping[int, Facts], name: str) -> bool:
    return len({each.get(name) for each in facts.values()}) == 1


def _usual(values: Sequence[str]) -> str:
    """The most frequent value; among equally frequent ones the first, so the chief's."""
    return Counter(values).most_common(1)[0][0]

"""Addresses of the processes of a run, and lists of them.

The lists are read here: the library for them, python-hostlist, is under the GPL, and this program is not.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import itertools
import re
from typing import Any

HOST = re.compile(r"(?:[^][,]|\[[^][]*\])+")  # rack[1-2]node[08-10]: text and ranges, up to a comma between them
RANGE = re.compile(r"(\d+)(?:-(\d+))?")

# host:port; a name or an IPv4 address, or an IPv6 address in brackets, which has colons itself
ADDRESS = re.compile(r"(?:[\w.-]+|\[([^][/@\s]+)\]):(\d{1,5})", re.ASCII)
LABEL_LENGTH = 63  # of each part of a host's name (RFC 1035); longer ones cannot be looked up
HIGHEST_PORT = 65535


@dataclasses.dataclass(frozen=True)
class Cluster:
    """``workers`` are the addresses ``host:port`` by rank, two or more; ``rank`` is that of this process."""

    workers: tuple[str, ...]
    rank: int


def split_address(address: str) -> tuple[str, int]:
    """Host and port of an address of a cluster; the host without brackets."""
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def expanded(text: str) -> list[str]:
    """The names of a list such as ``gpu1,rack[1-2]node[08-10,12]``, as ``scontrol show hostnames`` prints them.

    Raises:
        ValueError: it is no such list.
    """
    if not re.fullmatch(f"{HOST.pattern}(?:,{HOST.pattern})*", text):
        raise ValueError(text)
    names: list[str] = []
    for name in HOST.findall(text):
        # text at even places, the inside of brackets at odd ones
        parts = re.split(r"[][]", name)
        choices = [numbers(part) if place % 2 else [part] for place, part in enumerate(parts)]
        names.extend("".join(choice) for choice in itertools.product(*choices))
    return names


def numbers(text: str) -> list[str]:
    """The numbers of ``08-10,12``, padded to the width of the first of each range.

    Raises:
        ValueError: the text is something else.
    """
    found: list[str] = []
    for part in text.split(","):
        match = RANGE.fullmatch(part)
        if match is None:
            raise ValueError(text)
        first, last = match[1], match[2] or match[1]
        found.extend(str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
    return found


def fault_of(address: Any) -> str | None:
    """Why nothing can be reached at an address, None when there is no such reason."""
    if not isinstance(address, str):
        return "it is no text"
    match = ADDRESS.fullmatch(address)
    if match is None:
        if "://" in address:
            return "leave out the scheme and what follows the port"
        return "write an IPv6 address in brackets, [::1]:2222" if address.count(":") > 1 else "it is not host:port"
    if not 1 <= int(match[2]) <= HIGHEST_PORT:
        return f"a port is a number from 1 to {HIGHEST_PORT}"
    if match[1] is not None:
        return None if _is_ipv6(match[1]) else "what is in brackets is not an IPv6 address"
    labels = address.rpartition(":")[0].removesuffix(".").split(".")
    return None if all(0 < len(label) <= LABEL_LENGTH for label in labels) else "no host can have this name"


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True

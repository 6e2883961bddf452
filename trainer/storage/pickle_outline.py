"""What a Python pickle says it contains, without running it.

Loading a pickle calls whatever functions it names. Here the instructions are read by ``pickletools``, and what they
would build is written down instead: a name stays a name, and a call is noted and never made.
"""

from __future__ import annotations

import dataclasses
import io
import pickletools
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from trainer.storage.guarded import open_regular
from trainer.storage.unacceptable import Unacceptable

SIZE_LIMIT = 1 << 26  # bytes of instructions; the values of tensors are elsewhere
STEP_LIMIT = 20_000_000  # instructions
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # torch/serialization.py MAGIC_NUMBER: what torch.save wrote before its 1.6
LEGACY_BEFORE = 3  # pickles in front of the one with the contents: the magic number, the version, the system
# what is raised for bytes that are no pickle, or no zip, and for what is no file
DAMAGED: tuple[type[Exception], ...] = (
    *(ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, EOFError),
    *(zipfile.BadZipFile, zlib.error, Unacceptable),
)
ORDERED = ("collections", "OrderedDict")


@dataclasses.dataclass(frozen=True)
class Name:
    """A function or a class that the pickle names."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclasses.dataclass
class Call:
    """A call that loading the pickle would make. ``entries`` is what it would put into the result."""

    function: Any
    arguments: Any
    entries: dict[Any, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Elsewhere:
    """Something outside of the pickle, by what identifies it: a storage of PyTorch."""

    identity: Any


class NotUnderstood(Exception):
    """It is no pickle of a known kind, is damaged, or is too large to be looked at."""


@dataclasses.dataclass(frozen=True)
class Outline:
    """``value`` has dicts, lists, tuples and scalars as they are, and ``Name``, ``Call`` and ``Elsewhere``. ``names``
    are all functions and classes that loading would look up.
    """

    value: Any
    names: frozenset[str]


def outline(path: Path) -> Outline:
    """Of a pickle, or of what ``torch.save`` writes: a zip with ``data.pkl``, or several pickles behind each other.

    Raises:
        NotUnderstood: as its name says.
        OSError: the file cannot be read.
    """
    try:
        with open_regular(path.resolve()) as file:  # Lightning's last.ckpt may be a link; a FIFO would not answer
            if zipfile.is_zipfile(file):
                return _machine(io.BytesIO(_member(file)))
            file.seek(0)
            first = _machine(file)
            if first.value != LEGACY_MAGIC:
                return first
            for _ in range(LEGACY_BEFORE):
                last = _machine(file)
            return last
    except NotUnderstood:
        raise
    except DAMAGED as error:
        raise NotUnderstood(f"{type(error).__name__}: {error}") from error


def _member(file: BinaryIO) -> bytes:
    with zipfile.ZipFile(file) as archive:
        (name,) = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
        with archive.open(name) as member:
            content = member.read(SIZE_LIMIT + 1)
    if len(content) > SIZE_LIMIT:
        raise NotUnderstood(f"{name} has more than {SIZE_LIMIT} bytes")
    return content


class _Stack:
    """What a pickle builds, without calls."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.names: set[str] = set()

    def pop_mark(self) -> list[Any]:
        mark = self.marks.pop()
        items, self.stack[mark:] = self.stack[mark:], []
        return items

    def named(self, module: Any, name: Any) -> Name:
        found = Name(str(module), str(name))
        self.names.add(str(found))
        return found

    def called(self, function: Any, arguments: Any) -> Any:
        if isinstance(function, Name) and (function.module, function.name) == ORDERED and arguments == ():
            return {}
        return Call(function, arguments)


def _put(target: Any, pairs: Sequence[Any]) -> None:
    entries = target.entries if isinstance(target, Call) else target
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        entries[key if isinstance(key, str | int | float | bytes | bool | None) else repr(type(key))] = value


def _extend(target: Any, items: Sequence[Any]) -> None:
    if isinstance(target, list):
        target.extend(items)


def _reduce(machine: _Stack, _: Any) -> None:
    arguments, function = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(machine.called(function, arguments))


def _new_with_keywords(machine: _Stack, _: Any) -> None:
    _, arguments, kind = machine.stack.pop(), machine.stack.pop(), machine.stack.pop()
    machine.stack.append(machine.called(kind, arguments))


def _build(machine: _Stack, _: Any) -> None:
    state = machine.stack.pop()
    if isinstance(machine.stack[-1], Call) and isinstance(state, Mapping):
        machine.stack[-1].entries.update(state)


def _instance(machine: _Stack, argument: Any) -> None:
    module, _, name = argument.partition(" ")
    machine.stack.append(machine.called(machine.named(module, name), tuple(machine.pop_mark())))


def _object(machine: _Stack, _: Any) -> None:
    kind, *arguments = machine.pop_mark()
    machine.stack.append(machine.called(kind, tuple(arguments)))


def _named(machine: _Stack, argument: Any) -> None:
    module, _, name = argument.partition(" ")
    machine.stack.append(machine.named(module, name))


def _named_from_stack(machine: _Stack, _: Any) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(machine.named(module, name))


def _set_items(machine: _Stack, _: Any) -> None:
    pairs = machine.pop_mark()
    _put(machine.stack[-1], pairs)


def _set_item(machine: _Stack, _: Any) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    _put(machine.stack[-1], [key, value])


def _append(machine: _Stack, _: Any) -> None:
    item = machine.stack.pop()
    _extend(machine.stack[-1], [item])


def _appends(machine: _Stack, _: Any) -> None:
    items = machine.pop_mark()
    _extend(machine.stack[-1], items)


def _dict(machine: _Stack, _: Any) -> None:
    pairs, made = machine.pop_mark(), dict[Any, Any]()
    _put(made, pairs)
    machine.stack.append(made)


def _tuple(count: int) -> Callable[[_Stack, Any], None]:
    def make(machine: _Stack, _: Any) -> None:
        items, machine.stack[-count:] = tuple(machine.stack[-count:]), []
        machine.stack.append(items)

    return make


def _mark(machine: _Stack, _: Any) -> None:
    machine.marks.append(len(machine.stack))


def _pop(machine: _Stack, _: Any) -> None:
    if machine.marks and machine.marks[-1] == len(machine.stack):
        machine.marks.pop()
    else:
        machine.stack.pop()


def _pop_mark(machine: _Stack, _: Any) -> None:
    machine.pop_mark()


def _persistent(machine: _Stack, argument: Any) -> None:
    machine.stack.append(Elsewhere(argument))


def _persistent_from_stack(machine: _Stack, _: Any) -> None:
    machine.stack.append(Elsewhere(machine.stack.pop()))


def _memoize(machine: _Stack, _: Any) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


def _keep(machine: _Stack, argument: Any) -> None:
    machine.memo[int(argument)] = machine.stack[-1]


def _get(machine: _Stack, argument: Any) -> None:
    machine.stack.append(machine.memo[int(argument)])


def _collected(make: Callable[[list[Any]], Any]) -> Callable[[_Stack, Any], None]:
    def collect(machine: _Stack, _: Any) -> None:
        machine.stack.append(make(machine.pop_mark()))

    return collect


def _constant(make: Callable[[], Any]) -> Callable[[_Stack, Any], None]:
    def push(machine: _Stack, _: Any) -> None:
        machine.stack.append(make())

    return push


def _nothing(machine: _Stack, _: Any) -> None:
    pass


# the names of pickletools; what is not here pushes its argument, a number or a text
ACTIONS: Mapping[str, Callable[[_Stack, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "NEXT_BUFFER", "READONLY_BUFFER"), _nothing),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _reduce),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _keep),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _get),
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_SET"), _constant(list)),
    **dict.fromkeys(("LIST", "FROZENSET"), _collected(list)),
    **dict.fromkeys(("APPENDS", "ADDITEMS"), _appends),
    "NEWOBJ_EX": _new_with_keywords,
    "BUILD": _build,
    "INST": _instance,
    "OBJ": _object,
    "GLOBAL": _named,
    "STACK_GLOBAL": _named_from_stack,
    "SETITEMS": _set_items,
    "SETITEM": _set_item,
    "APPEND": _append,
    "DICT": _dict,
    "EMPTY_DICT": _constant(dict),
    "EMPTY_TUPLE": _constant(tuple),
    "TUPLE": _collected(tuple),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "NONE": _constant(lambda: None),
    "NEWTRUE": _constant(lambda: True),
    "NEWFALSE": _constant(lambda: False),
    "MARK": _mark,
    "POP": _pop,
    "POP_MARK": _pop_mark,
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "PERSID": _persistent,
    "BINPERSID": _persistent_from_stack,
    "MEMOIZE": _memoize,
}


def _machine(file: BinaryIO) -> Outline:
    machine = _Stack()
    for count, (code, argument, _) in enumerate(_instructions(file)):
        if count > STEP_LIMIT:
            raise NotUnderstood(f"it has more than {STEP_LIMIT} instructions")
        if code == "STOP":
            return Outline(machine.stack.pop(), frozenset(machine.names))
        if code in ACTIONS:
            ACTIONS[code](machine, argument)
        else:
            machine.stack.append(argument)
    raise NotUnderstood("it ends too early")


def _instructions(file: BinaryIO) -> Iterator[tuple[str, Any, int | None]]:
    for code, argument, place in pickletools.genops(file):
        yield code.name, argument, place

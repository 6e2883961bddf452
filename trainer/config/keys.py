"""How a configuration key is declared: type from the annotation, everything else in one ``key(...)`` beside it."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

FACTS = "facts"  # where a field's metadata has them
ResumePolicy = Literal["free", "consent", "fixed"]


@dataclasses.dataclass(frozen=True)
class KeyFacts:
    """The facts about one key besides its name and type.

    ``resume`` says what a resume may do with it: ``free`` keys do not change the result of a step, ``consent`` keys
    do and must be allowed by name, ``fixed`` keys decide which variables exist or what they mean.
    ``completed`` keys may be null in the composed configuration and are filled in once, when a run starts.
    A ``path`` may be relative to the directory of the command. It is stored as absolute: a resume may run elsewhere.
    A list that ``grows`` gets entries while the run goes on: a configuration given as a whole keeps those that a
    checkpoint has more.
    ``plugins`` is the group of entry points that may add variants to a section, or names to a list.
    Bounds are inclusive unless ``above`` or ``below`` is used.
    """

    doc: str
    resume: ResumePolicy
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None
    length: int | None = None
    completed: bool = False
    path: bool = False
    grows: bool = False
    plugins: str | None = None


def key(doc: str, resume: ResumePolicy, *, hashable: bool = True, **facts: Any) -> Any:
    """Declare a key of a configuration dataclass. There are no defaults here: values live in ``conf/``. A value that is
    not ``hashable`` is compared like any other, but is not part of a hash.
    """
    return dataclasses.field(metadata={FACTS: KeyFacts(doc, resume, **facts)}, hash=None if hashable else False)


def facts(field: dataclasses.Field[Any]) -> KeyFacts:
    """The facts of a field that ``key`` declared."""
    declared = field.metadata[FACTS]
    assert isinstance(declared, KeyFacts)
    return declared

"""Whether images of 16 bits use their range: values of 8 or 12 bits in it become an almost black image."""

from __future__ import annotations

import dataclasses

from trainer.config.schema.preprocessing import PreprocessConfig
from trainer.data.images.examination import UNDECODABLE, sixteen_bit_values
from trainer.data.images.headers import ImageFault
from trainer.data.images.pixels import LARGEST, rules_of
from trainer.data.sources.sample import spread
from trainer.data.sources.source import Source
from trainer.errors import UsageError

SAMPLE = 32  # records spread over a split
# of the range: 12 bits of 16 are a sixteenth and leave 16 of 256 shades, 13 bits are an eighth
REFUSED, WARNED = 1 / 8, 1 / 2


@dataclasses.dataclass(frozen=True)
class Used:
    """The values of the ``images`` of 16 bits that were looked at, of ``records`` in all. ``lightest`` is one with the
    largest value.
    """

    images: int
    records: int
    smallest: int
    largest: int
    lightest: int

    def share(self, darkest: int, lightest: int) -> float:
        """Of the range from ``darkest`` to ``lightest``, how much lies between the values of these images."""
        between = min(self.largest, lightest) - max(self.smallest, darkest) + 1
        return max(0, between) / (lightest - darkest + 1)

    def outside(self, darkest: int, lightest: int) -> float:
        """Of the range of these images, how much lies outside of that from ``darkest`` to ``lightest``."""
        return 1.0 - self.share(darkest, lightest) * (lightest - darkest + 1) / (self.largest - self.smallest + 1)


def used_by(source: Source) -> Used | None:
    """What a sample of a split uses, always the same records of the same split; None without an image of 16 bits."""
    found = None
    for record, data in spread(source, SAMPLE):
        try:
            values = sixteen_bit_values(data)
        except (ImageFault, *UNDECODABLE):
            continue  # whoever trains on it hears of it
        if values is None:
            continue
        found = Used(0, min(SAMPLE, source.count), *values, record) if found is None else found
        found = dataclasses.replace(
            found,
            images=found.images + 1,
            smallest=min(found.smallest, values[0]),
            largest=max(found.largest, values[1]),
            lightest=record if values[1] > found.largest else found.lightest,
        )
    return found


def dark(data: bytes, config: PreprocessConfig) -> list[str]:
    """A warning where one image has 16 bits a channel, and is almost one shade for the network."""
    values = sixteen_bit_values(data)
    if values is None:
        return []
    rules, used = rules_of(config), Used(1, 1, *values, 0)
    share = used.share(rules.darkest, rules.lightest)
    if share >= REFUSED:
        return []
    return [
        f"its 16 bits use {shown(share)} of the values from {rules.darkest} to {rules.lightest} that the network "
        f"was trained with: {used.smallest} to {used.largest}"
    ]


def shown(share: float) -> str:
    """A share of a range in two digits, for people."""
    return f"{float(f'{100 * share:.2g}'):g} %"  # the inner format alone would write 1e+02


def suggested(used: Used) -> list[int]:
    """A value for ``preprocess.sixteen_bit_range``: the bits that are used, or else the values."""
    bits = [0, 2 ** max(1, used.largest.bit_length()) - 1]
    return bits if used.share(*bits) >= REFUSED else [used.smallest, max(used.largest, used.smallest + 1)]


def setting(used: Used) -> str:
    """The argument of a command line that sets the suggested range."""
    return f"'preprocess.sixteen_bit_range=[{','.join(map(str, suggested(used)))}]'"


def check_range(source: Source, config: PreprocessConfig, *, new: bool) -> list[str]:
    """Warnings about images of 16 bits that become almost one shade.

    Raises:
        UsageError: a ``new`` run would see almost one shade, and ``preprocess.sixteen_bit_range`` does not ask for it.
    """
    used = used_by(source)
    if used is None:
        return []
    rules = rules_of(config)
    share = used.share(rules.darkest, rules.lightest)
    if share >= WARNED or (config.sixteen_bit_range is not None and share >= REFUSED):
        outside = used.outside(rules.darkest, rules.lightest)
        if outside < WARNED:
            return []
        return [
            f"{shown(outside)} of the values of images of 16 bits, {used.smallest} to {used.largest}, lie outside of "
            f"preprocess.sixteen_bit_range=[{rules.darkest},{rules.lightest}] and become black or white"
        ]
    said = (
        f"images of 16 bits use {shown(share)} of the values from {rules.darkest} to {rules.lightest}: "
        f"{used.smallest} to {used.largest} ({used.images} of {used.records} records looked at, the lightest "
        f"{source.place(used.lightest)}; the darkest and the lightest thousandth of their pixels do not count)"
    )
    if new and share < REFUSED and config.sixteen_bit_range is None:
        raise UsageError(
            f"{said}, so the network would see almost one shade, black where they are low\n"
            f"add {setting(used)} to spread these values from black to white, or "
            f"'preprocess.sixteen_bit_range=[0,{LARGEST}]' to train on the images as they are"
        )
    return [f"{said}; {setting(used)} spreads these values from black to white"]

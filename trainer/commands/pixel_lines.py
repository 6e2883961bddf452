"""What ``check-data`` says about pixels that a network may not see as a person does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainer.config.schema.preprocessing import PreprocessConfig

if TYPE_CHECKING:
    from trainer.data.audit import SplitAudit


def pixel_lines(each: SplitAudit, config: PreprocessConfig) -> list[str]:
    """Lines about transparency and about images of 16 bits a channel, of one split."""
    return [*_transparency(each, config), *_sixteen_bits(each, config)]


def _transparency(each: SplitAudit, config: PreprocessConfig) -> list[str]:
    transparent, blank = each.pixels.transparent, each.pixels.blank
    if not transparent:
        return []
    background = config.background if isinstance(config.background, str) else list(config.background)
    shown = "alpha is dropped and what is stored under it shows" if background == "none" else f"shown on {background}"
    first = f"the first {each.source.place(transparent[0])}"
    lines = [f"  {len(transparent)} of {each.usable} have transparent pixels, {shown} (preprocess.background), {first}"]
    if blank:
        lines.append(
            f"  warning: {len(blank)} of these are one colour on it, the first {each.source.place(blank[0])}; another "
            "preprocess.background shows them"
        )
    return lines


def _sixteen_bits(each: SplitAudit, config: PreprocessConfig) -> list[str]:
    from trainer.data.images.pixels import rules_of  # imports TensorFlow, which is slow
    from trainer.data.sixteen_bits import REFUSED, WARNED, Used, setting, shown

    found = each.pixels.sixteen_bits
    if not found:
        return []
    rules = rules_of(config)
    lightest = max(found, key=lambda image: image[2])
    used = Used(len(found), each.usable, min(image[1] for image in found), lightest[2], lightest[0])
    share = used.share(rules.darkest, rules.lightest)
    lines = [
        f"  {len(found)} of {each.usable} have 16 bits a channel, with values from {used.smallest} to {used.largest}: "
        f"{shown(share)} of the range from {rules.darkest} to {rules.lightest} (preprocess.sixteen_bit_range)"
    ]
    if share < WARNED:
        lines.append(f"  warning: they become dark, or of little contrast; {setting(used)} spreads these values")
    few = [image for image in found if Used(1, 1, image[1], image[2], 0).share(rules.darkest, rules.lightest) < REFUSED]
    if share >= WARNED and few:
        lines.append(
            f"  warning: {len(few)} of these use less than an eighth of it each, the first "
            f"{each.source.place(few[0][0])}; they become dark, or of little contrast"
        )
    outside = [image for image in found if image[1] < rules.darkest or image[2] > rules.lightest]
    if outside:
        place = each.source.place(outside[0][0])
        lines.append(f"  {len(outside)} of these have values outside, which become black or white, the first {place}")
    return lines


def warning_lines(audits: Sequence[SplitAudit]) -> list[str]:
    """What decoders warn of, with the files."""
    return [text for each in audits for text in each.pixels.warnings]

"""What is held back from stderr, and what comes out."""

from __future__ import annotations

import os
import re

import pytest
import tensorflow as tf
from image_data import jpeg

from trainer.data.images.libjpeg import listening
from trainer.runtime.quiet import held_back


def test_the_lines_that_match_are_kept_and_the_others_come_out(capfd: pytest.CaptureFixture[str]) -> None:
    with held_back(re.compile("ours")) as kept:
        os.write(2, b"ours: 1\nanother\nours: 2\n")
        assert kept == []
    assert kept == ["ours: 1", "ours: 2"]
    assert capfd.readouterr().err == "another\n"


def test_everything_comes_out_when_the_block_raises(capfd: pytest.CaptureFixture[str]) -> None:
    def fails() -> None:
        with held_back(re.compile("ours")):
            os.write(2, b"ours\n")
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert capfd.readouterr().err == "ours\n"


def test_libjpeg_s_own_warnings_are_known() -> None:
    whole = jpeg(1)
    with listening() as kept:
        tf.io.decode_jpeg(whole[:-2] + bytes(20) + whole[-2:])
    assert [line.partition(":")[0] for line in kept] == ["Corrupt JPEG data"]

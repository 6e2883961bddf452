"""What doctor advises to set is an argument that can be typed."""

from __future__ import annotations

from composing import compose

from trainer.config.compose import compose as composed
from trainer.diagnosis.wanted import setting_differences


def test_a_value_that_fits_is_spelled_as_an_argument() -> None:
    before = compose("preprocess.train=[decode,resize,normalize]", "data.classes=['sea lion',ox]", "optimizer=adam")
    found = setting_differences(before, compose("optimizer=sgd"), ())
    fitting = [text for finding in found for text in finding.overrides]
    assert "preprocess.train=[decode,resize,normalize]" in fitting
    assert "data.classes=['sea lion',ox]" in fitting
    again = composed([text for text in fitting if not text.startswith("optimizer.")])
    assert (again.preprocess, again.data, again.optimizer) == (before.preprocess, before.data, before.optimizer)

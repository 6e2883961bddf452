from pathlib import Path

import pytest
import tensorflow as tf

from trainer.runtime import machine


def test_another_processor_or_version_of_tensorflow_has_another_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    here = machine.digest()
    assert machine.digest() == here
    with monkeypatch.context() as patch:
        patch.setattr(tf, "__version__", "2.99.0")
        assert machine.digest() != here
    monkeypatch.setattr(Path, "read_text", lambda self: "flags\t: fpu avx2\nmodel name\t: another\n")
    assert machine.digest() != here

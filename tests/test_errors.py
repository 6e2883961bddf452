"""Messages can be printed and written, whatever is in the names that they hold."""

from __future__ import annotations

import os

import pytest

from trainer.errors import SPELLED, BadRecord, UsageError, measure, one_line, printable, spelled, warn

LATIN = os.fsdecode(b"caf\xe9.jpg")


def test_bytes_of_a_name_that_are_not_utf_8_are_spelled() -> None:
    assert spelled(LATIN) == r"caf\xe9.jpg"
    assert spelled("\ud800") == r"\ud800"
    assert spelled("naïve 猫 😀") == "naïve 猫 😀"


def test_a_name_stays_on_one_line() -> None:
    assert one_line(f"a\nb\t\x1b[2J{LATIN}") == r"a\nb\t\x1b[2Jcaf\xe9.jpg"
    assert printable("two\nlines\x07") == "two\nlines\\x07"


def test_every_error_can_be_encoded() -> None:
    for kind in (UsageError, BadRecord):
        assert str(kind(f"{LATIN} is empty\nremove it")) == "caf\\xe9.jpg is empty\nremove it"


def test_a_warning_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    warn(f"{LATIN} is empty")
    assert capsys.readouterr().err == "warning: caf\\xe9.jpg is empty\n"


def test_what_an_encoding_lacks_is_spelled_in_ascii() -> None:
    assert "1 · 2 × 3 → 4 …".encode("ascii", SPELLED) == b"1 . 2 x 3 -> 4 ..."
    assert f"é 猫 😀 {LATIN}".encode("ascii", SPELLED) == rb"\xe9 \u732b \U0001f600 caf\xe9.jpg"
    assert f"é {LATIN}".encode("utf-8", SPELLED) == "é caf\\xe9.jpg".encode()
    with pytest.raises(UnicodeDecodeError):
        b"\xff".decode("utf-8", SPELLED)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.13204, "0.1320"), (99999.5, "99999.5000"), (6248659630440116224.0, "6.2e18"), (-1.5e6, "-1.5e6")],
)
def test_a_number_is_written_with_the_digits_that_say_something(value: float, text: str) -> None:
    assert measure(value) == text
    assert (measure(float("nan")), measure(float("inf"))) == ("nan", "inf")

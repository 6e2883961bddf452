"""What threads are doing, for messages about something that does not end."""

from __future__ import annotations

import threading

import pytest

from trainer.storage.going_on import GoingOn


def test_the_inner_part_of_the_longest_is_named_and_each_end_is_progress() -> None:
    going_on, begun, end = GoingOn(), threading.Event(), threading.Event()

    def other() -> None:
        with going_on.doing(lambda: "a file"), going_on.doing(lambda: "a part of it"):
            begun.set()
            end.wait(60)

    thread = threading.Thread(target=other)
    thread.start()
    begun.wait(60)
    with going_on.doing(lambda: "something later"):
        longest = going_on.longest()
        assert longest is not None
        assert longest[0] == "a part of it"
        assert set(going_on.innermost()) == {thread.ident, threading.get_ident()}
    assert going_on.ended == 1
    going_on.advance()
    end.set()
    thread.join()
    assert going_on.ended == 4
    assert going_on.longest() is None


def test_what_fails_has_ended() -> None:
    going_on = GoingOn()
    with pytest.raises(OSError, match="gone"), going_on.doing(lambda: "a file"):
        raise OSError("gone")
    assert going_on.innermost() == {}
    assert going_on.ended == 1

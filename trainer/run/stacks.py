"""What all threads of this process are doing, as text."""

from __future__ import annotations

import sys
import threading
import traceback


def stacks(main: int) -> str:
    """The stack of every thread that runs Python, that with the number ``main`` first; this thread is left out."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    own = threading.get_ident()
    frames = {number: frame for number, frame in sys._current_frames().items() if number != own}
    parts = []
    for number in sorted(frames, key=lambda each: (each != main, each)):
        name = names.get(number, "of TensorFlow")  # one that Python has not started
        calls = traceback.extract_stack(frames[number])
        own_calls = [
            call for call in calls if call.filename != threading.__file__
        ] or calls  # how Python starts a thread
        lines = "".join(traceback.format_list(own_calls)).rstrip()
        parts.append(f"thread {name} ({number:#x}):\n{lines}")
    return "\n".join(parts)


def where(main: int) -> str:
    """The innermost call of the thread ``main``."""
    frame = sys._current_frames().get(main)
    if frame is None:
        return "the main thread has ended"
    return f"the main thread is in {frame.f_code.co_name} ({frame.f_code.co_filename}, line {frame.f_lineno})"

"""What goes to the terminal, and nothing else: text without control characters, notes, statistics."""

import os
import sys
from typing import TextIO

from appliance.protocol.websocket import Done

_C0_AND_DEL = [*range(0x20), 0x7F]
_C1 = range(0x80, 0xA0)
_CONTROLS = dict.fromkeys(code for code in [*_C0_AND_DEL, *_C1] if chr(code) not in "\n\t")


def printable(text: str) -> str:
    """`text` without what a terminal would obey: C0 but newline and tab, ESC among it, DEL, C1."""
    return text.translate(_CONTROLS)


def statistics(done: Done) -> str:
    """Such as "TTFT 118 ms · 37.9 tok/s · 58 tokens · stop"; what was not measured is left out."""
    timings, tokens = done.timings, done.usage.completion_tokens
    parts = [
        f"TTFT {timings.ttft_ms:.0f} ms" if timings.ttft_ms is not None else "",
        f"{1000 / timings.tpot_ms:.1f} tok/s" if timings.tpot_ms else "",
        f"{tokens} token" + ("" if tokens == 1 else "s"),
        done.finish_reason,
    ]
    return " · ".join(part for part in parts if part)


class Screen:
    """Answers on one stream, notes about them on another; both may be the same terminal."""

    def __init__(self, out: TextIO, notes: TextIO) -> None:
        self._out = out
        self._notes = notes
        self._terminal = notes.isatty() and os.environ.get("TERM") != "dumb"
        self._dim = self._terminal and not os.environ.get("NO_COLOR")
        self._status_shown = False
        self._line_open = False

    def text(self, delta: str) -> None:
        """Text of the answer, at once."""
        self.clear_status()
        shown = printable(delta)
        if shown:
            self._out.write(shown)
            self._out.flush()
            self._line_open = not shown.endswith("\n")

    def end_text(self) -> None:
        """The answer is over: end its line where it is open."""
        self.clear_status()
        if self._line_open:
            self._out.write("\n")
            self._out.flush()
            self._line_open = False

    def note(self, text: str) -> None:
        """A line about the conversation, dim where the terminal can."""
        self.end_text()
        text = printable(text)
        self._write_note(f"\x1b[2m{text}\x1b[0m\n" if self._dim else f"{text}\n")

    def complaint(self, text: str) -> None:
        """A line about what went wrong."""
        self.end_text()
        self._write_note(printable(text).replace("\n", " ") + "\n")

    def status(self, text: str) -> None:
        """A line that the next output replaces; not shown where standard error is no terminal.

        Amid an answer it goes below what was said, which it must not wipe out.
        """
        below = "\n" if self._line_open and not self._status_shown else ""
        if self._terminal:
            self._write_note(f"{below}\r\x1b[K{printable(text)}")
            self._status_shown = True
        elif self._notes.isatty():
            self._write_note(f"{below}{printable(text)}\n")

    def clear_status(self) -> None:
        """Take the status away."""
        if self._status_shown:
            self._write_note("\r\x1b[K")
            self._status_shown = False

    def _write_note(self, text: str) -> None:
        self._notes.write(text)
        self._notes.flush()


def open_screen() -> Screen:
    """The screen on standard output and error; characters that their encoding lacks are replaced."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    return Screen(sys.stdout, sys.stderr)

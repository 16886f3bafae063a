"""Standard output that nobody reads, or that has no room: what commands then say, and their exit status."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.process import environment


def test_a_reader_of_standard_output_that_has_had_enough_is_no_error(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "appliance", "config", "show"],
            env=environment(tmp_path), stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60,
        )  # fmt: skip
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("command", [["config", "show"], ["models", "list", "--json"], ["version"]])
def test_a_full_disk_behind_standard_output_is_one_line(tmp_path: Path, command: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "appliance", *command],
            env=environment(tmp_path), stdout=full, stderr=subprocess.PIPE, text=True, timeout=60,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "appliance: can't write the output: No space left on device\n"

"""Files that a command is told to write its findings to. Knows no form that they have."""

import os
from pathlib import Path

import typer

from appliance.errors import StartError


def require_writable(*files: Path | None) -> None:
    """Before the measurement: it would be a pity afterwards. Raises BadParameter for one that can't be written."""
    for file in files:
        if file is None:
            continue
        directory = file.absolute().parent
        if file.is_dir() or not directory.is_dir() or not os.access(directory, os.W_OK):
            raise typer.BadParameter(f"{file} can't be written; name a file in a directory that is there and yours")


def write(file: Path | None, content: bytes) -> None:
    """Replace `file` as a whole; None is nothing to do. Raises StartError where it can't be written after all."""
    if file is None:
        return
    from appliance.bench.results import write_file

    try:
        write_file(file, content)
    except OSError as error:
        raise StartError(f"{file} can't be written: {error.strerror}") from error

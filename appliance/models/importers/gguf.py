"""GGUF to IR, in a child process. Knows the child's lines; imports no engine itself."""

import errno
import os
import shutil
from pathlib import Path

import msgspec
from msgspec import Struct

from appliance.models.catalog import CatalogModel
from appliance.models.children import TAIL_LINES, describe_status, open_child
from appliance.models.errors import ImportFailed
from appliance.models.importers import Converted
from appliance.models.progress import Progress

CONVERSION = ("-m", "appliance.engine.conversion")
CONVERSION_TIMEOUT_S = 900.0  # 10 s for 135 M parameters on two desktop cores; a small mini-PC takes some times that
FULL_DISK_BYTES = 1 << 20  # less than this left after a failed conversion: the disk is why
_IO_ERROR = "iostream error"  # what GenAI says of a full disk, with up to one tensor of room left


class _Report(Struct):
    """The child's last line."""

    eos_token_ids: tuple[int, ...] = ()
    chat_template: bool = False
    text: str = ""
    weights: str = ""
    error: str = ""


def convert(
    gguf: Path, directory: Path, model: CatalogModel, progress: Progress, *, timeout_s: float = CONVERSION_TIMEOUT_S
) -> Converted:
    """Convert `gguf` into `directory`, then load and generate there, in a child that has `timeout_s` seconds.

    Raises ImportFailed with the child's reason, and OSError (ENOSPC) where it left a full disk.
    """
    progress.stage(f"{model.id}: converting")
    arguments = [*CONVERSION, "--", str(gguf), str(directory), *model.eos_tokens]
    tail: list[str] = []
    with open_child(arguments, os.environ) as child:
        for line in child.lines():
            progress.advance()
            if line is not None:
                tail = [*tail[1 - TAIL_LINES :], line]
            if child.age_s > timeout_s:
                raise ImportFailed(f"{model.id}: the conversion was ended after {timeout_s:g} s")
        status = child.wait()
    report = _report(tail)
    if status != 0 or report is None or report.error:
        reason = report.error if report is not None and report.error else _last_words(status, tail)
        _raise_if_full(directory, gguf, reason)
        raise ImportFailed(f"{model.id}: the conversion failed: {reason}")
    _check(model, report)
    return Converted(eos_token_ids=report.eos_token_ids, weights=report.weights)


def _check(model: CatalogModel, report: _Report) -> None:
    if not report.text.strip():
        raise ImportFailed(f"{model.id}: the converted model generates no text")
    if not report.chat_template:
        raise ImportFailed(f"{model.id}: the model has no chat template")
    if not report.eos_token_ids:
        raise ImportFailed(f"{model.id}: no token ends an answer: eos_tokens in the catalog name none that it has")


def _report(tail: list[str]) -> _Report | None:
    for line in reversed(tail):
        if line.startswith("{"):
            try:
                return msgspec.json.decode(line, type=_Report)
            except msgspec.DecodeError:
                return None
    return None


def _last_words(status: int, tail: list[str]) -> str:
    described = describe_status(status)
    if status == -9:  # nobody else sends it: our own limits end the child inside its block
        return f"{described}, as the kernel does when memory runs out"
    words = next((line.strip() for line in reversed(tail) if line.strip()), "")
    return f"{described}: {words}" if words else described


def _raise_if_full(directory: Path, gguf: Path, reason: str) -> None:
    free = shutil.disk_usage(directory).free
    if free < FULL_DISK_BYTES or (_IO_ERROR in reason and free < gguf.stat().st_size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

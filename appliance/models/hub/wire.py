"""What is said between an importer and the process that talks to the hub. Knows the shapes; does nothing.

The request is the process's one argument, without any secret: those are in the environment. It answers with one JSON
object a line; what does not begin with a brace is a library's own words.
"""

from typing import Literal

import msgspec
from msgspec import Struct


class Request(Struct, frozen=True, kw_only=True):
    """One file, or a checkpoint's, and what is known of it."""

    repository: str
    revision: str
    """Empty for the newest."""
    file: str
    """Empty for the repository's checkpoint."""
    directory: str
    """Where it goes, and where a part of it may lie from before."""
    sha256: str
    """Of the file; empty where nobody knows it."""
    size_bytes: int
    """0 where nobody knows it."""
    most_bytes: int
    """More is refused."""
    answer_timeout_s: float
    """For one answer of the hub, without the file."""
    source_timeout_s: float
    """Longest pause that the hub may ask for before the first byte of the file."""
    download_timeout_s: float
    """Longest pause that it may ask for after that."""


class Announced(Struct, frozen=True):
    """What the hub says of one file."""

    name: str
    digest: str
    """Its sha256; of a small file of a checkpoint the SHA-1 by which git knows it."""
    size_bytes: int


class Found(Struct, frozen=True, tag_field="is", tag="found"):
    """The hub has what is wanted, and this is what it says of it."""

    commit: str
    files: tuple[Announced, ...]
    kept_bytes: int
    """What is there of them from before."""

    @property
    def size_bytes(self) -> int:
        """Of all files together."""
        return sum(file.size_bytes for file in self.files)


class Received(Struct, frozen=True, tag_field="is", tag="received"):
    """How much of the files is there."""

    bytes: int


class Waiting(Struct, frozen=True, tag_field="is", tag="waiting"):
    """The hub could not answer as it should; it is asked again after a pause."""

    reason: str


class Fetched(Struct, frozen=True, tag_field="is", tag="fetched"):
    """The files are there, as long as they should be; nobody has read them."""

    path: str
    """The file's; for a checkpoint the directory's."""


class Failed(Struct, frozen=True, tag_field="is", tag="failed"):
    """There will be no file."""

    kind: Literal["unavailable", "mismatch", "settings", "system"]
    """unavailable: another source may do; mismatch: it is another file; settings: mend the environment first."""
    reason: str
    """One line with the remedy and without secrets."""
    errno: int = 0
    """Of a system's error."""


Message = Found | Received | Waiting | Fetched | Failed


def read_message(line: str) -> Message | None:
    """The message in `line`; None where it holds none."""
    if not line.startswith("{"):
        return None
    try:
        message: Message = msgspec.json.decode(line, type=Message)
    except msgspec.DecodeError:
        return None
    return message

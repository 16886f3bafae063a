"""A bundle's form: its index, the order of its members, and each byte of its tar that is not theirs. Opens no file.

    bundle.json     the index: every member below with its size and sha256
    bundle.sig      the signature of the index, where it is signed
    LICENSE         the text of the model's licence
    manifest.json   the model's manifest
    …               the model's files, by name

The index comes first, since it bounds all that follows, and the signature after it, since nothing needs to be believed
before it. A header holds nothing but a name and a size: whoever knows the index knows every other byte, so that reading
a bundle is comparing, and neither links nor paths nor extensions of tar have to be understood in order to be refused.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from appliance.models.catalog import ModelId
from appliance.models.errors import BundleRefused, BundleTooNew
from appliance.models.manifest import BUNDLE_INDEX_NAME, MANIFEST_NAME, Digest

BUNDLE_KIND = "edge-chat-appliance bundle"  # so that a signature of it can stand for nothing else
BUNDLE_FORMAT: Final = 1

INDEX_NAME = BUNDLE_INDEX_NAME
SIGNATURE_NAME = "bundle.sig"
LICENCE_NAME = "LICENSE"
OWN_NAMES = (INDEX_NAME, SIGNATURE_NAME, LICENCE_NAME)
"""What a bundle adds to a model's files and manifest, in the tar and in the store."""

BLOCK_BYTES = 512
END = bytes(2 * BLOCK_BYTES)
MOST_FILES = 64  # a model has seven
MOST_INDEX_BYTES = 64 << 10  # 66 members with the longest names take a fifth of it
MOST_SIGNATURE_BYTES = 1 << 10
MOST_TEXT_BYTES = 1 << 20  # licence and manifest, which are held in memory
MOST_FILE_BYTES = (8 << 30) - 1  # what eleven octal digits can say

_TYPES = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"5": "a directory",
    b"6": "a pipe",
    b"S": "a sparse file",
    b"x": "an extended header",
    b"g": "an extended header",
    b"L": "an extended header",
    b"K": "an extended header",
}


class Member(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file behind the index and its signature."""

    # No slash, no leading dot, and no longer than the one field of a header that is used for it.
    name: Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_][A-Za-z0-9._-]{0,99}\Z")]
    size_bytes: Annotated[int, Meta(ge=0, le=MOST_FILE_BYTES)]
    sha256: Digest


class Index(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is in a bundle; what is signed."""

    kind: str = BUNDLE_KIND
    format: Literal[1] = BUNDLE_FORMAT
    id: ModelId
    digest: Digest
    """The manifest's."""
    members: Annotated[tuple[Member, ...], Meta(min_length=3, max_length=2 + MOST_FILES)]
    """Licence, manifest, and the model's files by name."""

    @property
    def licence(self) -> Member:
        return self.members[0]

    @property
    def manifest(self) -> Member:
        return self.members[1]

    @property
    def files(self) -> Sequence[Member]:
        """The model's own."""
        return self.members[2:]


class _Head(Struct):
    kind: str = ""
    format: Annotated[int, Meta(ge=1, le=1_000_000)] = 1


def encode_index(index: Index) -> bytes:
    """The one form of an index."""
    return msgspec.json.format(msgspec.json.encode(index), indent=1) + b"\n"


def decode_index(text: bytes) -> Index:
    """The index in `text`. Raises BundleTooNew, BundleRefused."""
    try:
        head = msgspec.json.decode(text, type=_Head)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BundleRefused(f"is no bundle: its {INDEX_NAME} is not JSON of an index") from None
    if head.kind != BUNDLE_KIND:
        raise BundleRefused(f"is no bundle: its {INDEX_NAME} is of another kind")
    if head.format > BUNDLE_FORMAT:
        raise BundleTooNew(f"has format {head.format} and needs a newer appliance: this one knows {BUNDLE_FORMAT}")
    try:
        index = msgspec.json.decode(text, type=Index)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleRefused(f"is damaged: {INDEX_NAME}: {error}") from None
    if encode_index(index) != text:
        raise BundleRefused(f"is damaged: {INDEX_NAME} is not in the one form that an index has")
    _check_members(index)
    return index


def _check_members(index: Index) -> None:
    names = [member.name for member in index.members]
    files = names[2:]
    if names[:2] != [LICENCE_NAME, MANIFEST_NAME] or files != sorted(set(files)):
        raise BundleRefused(f"is damaged: the members in {INDEX_NAME} are not in their order, or one is there twice")
    if {*OWN_NAMES, MANIFEST_NAME} & set(files):
        raise BundleRefused(f"is damaged: {INDEX_NAME} names a file of the model as one of the bundle's own")
    for member in index.members[:2]:
        if member.size_bytes > MOST_TEXT_BYTES:
            raise BundleRefused(f"is damaged: {member.name} has more than {MOST_TEXT_BYTES:,} bytes")


def header(name: str, size_bytes: int) -> bytes:
    """The block before a member: a USTAR header of a regular file, owned by root, mode 0644, of 1970.

    Written here and not by tarfile, whose headers have changed between releases of Python.
    """
    before = b"".join(
        (
            name.encode("ascii").ljust(100, b"\0"),
            b"0000644\0",  # mode
            b"0000000\0",  # uid
            b"0000000\0",  # gid
            b"%011o\0" % size_bytes,
            b"00000000000\0",  # mtime
        )
    )
    after = (b"0" + bytes(100) + b"ustar\x0000").ljust(BLOCK_BYTES - len(before) - 8, b"\0")
    checksum = sum(before) + 8 * ord(" ") + sum(after)
    return before + b"%06o\0 " % checksum + after


def stored_bytes(size_bytes: int) -> int:
    """Bytes that a member of that size takes: its header, itself, and zeros to the end of its last block."""
    return BLOCK_BYTES + size_bytes + padding_bytes(size_bytes)


def padding_bytes(size_bytes: int) -> int:
    """Zeros behind a member."""
    return -size_bytes % BLOCK_BYTES


def bundle_bytes(sizes: Iterable[int]) -> int:
    """Bytes of a bundle whose members, index and signature among them, have those sizes."""
    return sum(map(stored_bytes, sizes)) + len(END)


def size_in(block: bytes, name: str, most_bytes: int) -> int | None:
    """The size that a header gives for the member `name`; None where it is another's, or passes `most_bytes`."""
    digits = block[124:135]
    if not digits.isdigit() or set(digits) & set(b"89"):
        return None
    size_bytes = int(digits, 8)
    return size_bytes if size_bytes <= most_bytes and block == header(name, size_bytes) else None


def describe(block: bytes) -> str:
    """What a header that is not the expected one begins, in words; its name as ASCII, and cut."""
    if not any(block):
        return "the end"
    if block[257:262] != b"ustar":
        return "no header"
    name = ascii(block[:100].rstrip(b"\0").decode("utf-8", "replace"))[:60]
    return f"{_TYPES.get(block[156:157], 'a file')} {name}"

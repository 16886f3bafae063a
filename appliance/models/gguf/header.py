"""The header of a GGUF file, read without trusting it. Knows the form; knows no architecture and no tokenizer.

Every count and length is compared with what is left of the file, and with a limit, before it is used: a hostile
header costs no more memory and time than an honest one.
"""

import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from math import prod
from pathlib import Path

from msgspec import Struct

from appliance.models.gguf.ggml import TYPES, Ggml

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32  # where general.alignment says nothing else

MAX_ENTRIES = 4096  # some 30 are usual
MAX_TENSORS = 65_536  # some 300 for 0.5 B parameters
MAX_NAME_BYTES = 256  # ggml itself takes 63 for a tensor's name
MAX_TEXT_BYTES = 1 << 20  # chat templates have some thousands
MAX_ELEMENTS = 1 << 22  # the largest vocabularies have 262,144 tokens
MAX_DIMENSIONS = 4
MAX_SHORT_ARRAY = 64  # longer ones stay in the file until somebody reads them

_STRING, _ARRAY = 8, 9
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}


class HeaderError(ValueError):
    """The file is not a GGUF file that can be used; one line that says what is wrong."""


class Array(Struct, frozen=True):
    """A long array, still in the file."""

    kind: int
    count: int
    offset: int


Scalar = bool | int | float | str
Value = Scalar | list[Scalar] | Array


class Tensor(Struct, frozen=True):
    """One tensor: `shape` begins with the dimension that is contiguous; `offset` is the file's."""

    name: str
    ggml: Ggml
    shape: tuple[int, ...]
    offset: int

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def size_bytes(self) -> int:
        return self.elements // self.ggml.block * self.ggml.size_bytes


class Header(Struct, frozen=True, kw_only=True):
    """All of a header, with the vocabulary still in the file."""

    version: int
    entries: int
    metadata: dict[str, Value]
    metadata_span: tuple[int, int]
    """Where the metadata begin and end in the file."""
    tensors: tuple[Tensor, ...]


class _Cursor:
    """A place in the file; whatever would lie behind its end is an error."""

    def __init__(self, data: mmap.mmap, at: int = 0) -> None:
        self.data = data
        self.at = at

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise HeaderError("the file is truncated, or its header is damaged: it ends within the header")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, form: str) -> int:
        (value,) = struct.unpack(form, self.take(struct.calcsize(form)))
        return value  # type: ignore[no-any-return] # struct has no types

    def count(self, limit: int, least_bytes: int, what: str) -> int:
        """A count of things that take `least_bytes` each at the least."""
        count = self.number("<Q")
        if count > limit or count * least_bytes > len(self.data) - self.at:
            raise HeaderError(f"the header is damaged: it claims {count} {what}")
        return count

    def text(self, limit: int) -> str:
        return self.take(self.count(limit, 1, "bytes of text")).decode("utf-8", "replace")

    def skip_texts(self, count: int) -> None:
        for _ in range(count):
            self.take(self.count(MAX_TEXT_BYTES, 1, "bytes of text"))

    def value(self) -> Value:
        return self._typed(self.number("<I"))

    def _typed(self, kind: int) -> Value:
        if kind == _ARRAY:
            return self._array()
        if kind == _STRING:
            return self.text(MAX_TEXT_BYTES)
        if kind not in _SCALARS:
            raise HeaderError(f"the header is damaged: no value has the type {kind}")
        return self.number(_SCALARS[kind])

    def _array(self) -> Value:
        kind = self.number("<I")
        if kind != _STRING and kind not in _SCALARS:
            raise HeaderError(f"the header is damaged: no array has elements of the type {kind}")
        size = 8 if kind == _STRING else struct.calcsize(_SCALARS[kind])
        count = self.count(MAX_ELEMENTS, size, "elements of an array")
        if count <= MAX_SHORT_ARRAY:
            return [self._scalar(kind) for _ in range(count)]
        array = Array(kind, count, self.at)
        if kind == _STRING:
            self.skip_texts(count)
        else:
            self.take(count * size)
        return array

    def _scalar(self, kind: int) -> Scalar:
        return self.text(MAX_TEXT_BYTES) if kind == _STRING else self.number(_SCALARS[kind])


def read_header(file: Path) -> Header:
    """The header of `file`. Raises HeaderError in one line, OSError."""
    with _mapped(file) as data:
        cursor = _Cursor(data)
        version = _version(cursor)
        tensors = cursor.count(MAX_TENSORS, 24, "tensors")
        entries = cursor.count(MAX_ENTRIES, 13, "metadata entries")
        begin = cursor.at
        metadata: dict[str, Value] = {}
        for _ in range(entries):
            key = cursor.text(MAX_NAME_BYTES)
            if key in metadata:
                raise HeaderError(f"the header is damaged: {key!r} is there twice")
            metadata[key] = cursor.value()
        span = (begin, cursor.at)
        described = [_tensor(cursor) for _ in range(tensors)]
        return Header(
            version=version,
            entries=entries,
            metadata=metadata,
            metadata_span=span,
            tensors=_placed(described, cursor.at, _alignment(metadata), len(data)),
        )


def read_texts(file: Path, value: Value | None) -> list[str]:
    """A metadata value that is an array of texts; [] where it is none. Raises HeaderError."""
    if isinstance(value, Array) and value.kind == _STRING:
        with _mapped(file) as data:
            cursor = _Cursor(data, value.offset)
            return [cursor.text(MAX_TEXT_BYTES) for _ in range(value.count)]
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def read_numbers(file: Path, value: Value | None) -> list[int]:
    """A metadata value that is an array of whole numbers; [] where it is none. Raises HeaderError."""
    if isinstance(value, Array) and value.kind in _SCALARS:
        with _mapped(file) as data:
            cursor = _Cursor(data, value.offset)
            return [int(cursor.number(_SCALARS[value.kind])) for _ in range(value.count)]
    return [number for number in value if isinstance(number, int)] if isinstance(value, list) else []


@contextmanager
def _mapped(file: Path) -> Iterator[mmap.mmap]:
    with file.open("rb") as content:
        if os.fstat(content.fileno()).st_size < len(MAGIC):
            raise HeaderError("not a GGUF file: it is all but empty")
        with mmap.mmap(content.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


def _version(cursor: _Cursor) -> int:
    magic = cursor.take(len(MAGIC))
    if magic != MAGIC:
        raise HeaderError(f"not a GGUF file: it begins with {magic!r}, not with {MAGIC!r}")
    version = cursor.number("<I")
    if version not in VERSIONS:
        big_endian = " (a big-endian file)" if version & 0xFFFF == 0 and version else ""
        raise HeaderError(f"GGUF version {version}{big_endian}; versions 2 and 3 can be read")
    return version


def _alignment(metadata: dict[str, Value]) -> int:
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
        raise HeaderError("the header is damaged: general.alignment is no power of two")
    return alignment


def _tensor(cursor: _Cursor) -> Tensor:
    """As the header describes it, with an offset from the beginning of the data."""
    name = cursor.text(MAX_NAME_BYTES)
    dimensions = cursor.number("<I")
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise HeaderError(f"the header is damaged: tensor {name!r} has {dimensions} dimensions")
    shape = tuple(cursor.number("<Q") for _ in range(dimensions))
    kind = cursor.number("<I")
    if kind not in TYPES:
        raise HeaderError(f"tensor {name!r} has a type of number {kind}, which is not known here")
    if 0 in shape or shape[0] % TYPES[kind].block:
        raise HeaderError(f"the header is damaged: tensor {name!r} can't have the shape {shape}")
    return Tensor(name, TYPES[kind], shape, cursor.number("<Q"))


def _placed(tensors: list[Tensor], header_end: int, alignment: int, file_bytes: int) -> tuple[Tensor, ...]:
    """The tensors with their places in the file, in its order; each within it, and none in another's place."""
    begin = -(-header_end // alignment) * alignment
    placed = [Tensor(tensor.name, tensor.ggml, tensor.shape, begin + tensor.offset) for tensor in tensors]
    placed.sort(key=lambda tensor: tensor.offset)
    names = {tensor.name for tensor in placed}
    if not placed or len(names) != len(placed):
        raise HeaderError("the header is damaged: it has no tensors, or one of them twice")
    for tensor in placed:
        if tensor.offset % alignment:
            raise HeaderError(f"the header is damaged: tensor {tensor.name!r} is not aligned to {alignment} bytes")
        if tensor.offset + tensor.size_bytes > file_bytes:
            raise HeaderError(f"the file is truncated, or its header damaged: it ends within tensor {tensor.name!r}")
    for before, after in pairwise(placed):
        if before.offset + before.size_bytes > after.offset:
            raise HeaderError(f"the header is damaged: tensors {before.name!r} and {after.name!r} overlap")
    return tuple(placed)

"""Headers of GGUF files: honest ones are read, every other one is refused in one line, soon and in little memory."""

import os
import resource
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.models.errors import ImportFailed
from appliance.models.gguf.ggml import TYPES
from appliance.models.gguf.header import HeaderError, read_header, read_numbers, read_texts
from appliance.models.importers.quantizing import scan
from appliance.models.progress import Silent
from tests.support.gguf import QWEN, Entry, entry, make_gguf, tensor_entry, text, tiny_model

HUGE = 1 << 63


def header(tensors: int, entries: int, rest: bytes = b"", magic: bytes = b"GGUF", version: int = 3) -> bytes:
    return magic + struct.pack("<IQQ", version, tensors, entries) + rest


def array(kind: int, count: int) -> bytes:
    return text("key") + struct.pack("<IIQ", 9, kind, count)


def tensors_at(*offsets: int, shape: tuple[int, ...] = (32,), kind: int = 0) -> bytes:
    described = [tensor_entry(f"t{number}", shape, kind, offset) for number, offset in enumerate(offsets)]
    return header(len(offsets), 0, b"".join(described)) + bytes(4096)


HOSTILE = {
    "empty": (b"", "all but empty"),
    "another kind of file": (b"PK\x03\x04" + bytes(100), "not a GGUF file: it begins with b'PK"),
    "magic alone": (b"GGUF", "truncated"),
    "version 1": (header(0, 0, version=1), "GGUF version 1; versions 2 and 3"),
    "big endian": (header(0, 0, version=3 << 24), "big-endian"),
    "2^63 tensors": (header(HUGE, 0), f"it claims {HUGE} tensors"),
    "2^63 entries": (header(1, HUGE, bytes(100)), f"it claims {HUGE} metadata entries"),
    "more entries than bytes": (header(1, 4000, bytes(100)), "it claims 4000 metadata entries"),
    "a key of 4 GB": (header(1, 1, struct.pack("<Q", 1 << 32) + bytes(100)), "bytes of text"),
    "a text of 4 GB": (header(1, 1, text("k") + struct.pack("<IQ", 8, 1 << 32) + bytes(100)), "bytes of text"),
    "an array of 2^63": (header(1, 1, array(8, HUGE) + bytes(100)), f"it claims {HUGE} elements"),
    "an array of arrays": (header(1, 1, array(9, 4) + bytes(100)), "no array has elements of the type 9"),
    "a value of no type": (header(1, 1, text("k") + struct.pack("<I", 99) + bytes(100)), "no value has the type 99"),
    "a key twice": (header(1, 2, entry("k", 1) * 2 + bytes(100)), "'k' is there twice"),
    "alignment 0": (header(1, 1, entry("general.alignment", 0) + bytes(100)), "truncated|dimensions|power of two"),
    "no tensors": (header(0, 0, bytes(64)), "no tensors"),
    "0 dimensions": (tensors_at(0, shape=()), "has 0 dimensions"),
    "2^32 - 1 dimensions": (header(1, 0, text("t") + b"\xff" * 4 + bytes(64)), "has 4294967295 dimensions"),
    "an empty tensor": (tensors_at(0, shape=(0,)), "can't have the shape"),
    "half a block": (tensors_at(0, shape=(16,), kind=8), "can't have the shape"),
    "a type of tomorrow": (tensors_at(0, kind=99), "a type of number 99"),
    "a tensor out of the file": (tensors_at(1 << 40), "truncated"),
    "a tensor larger than memory": (tensors_at(0, shape=(HUGE, HUGE)), "truncated"),
    "overlapping tensors": (tensors_at(0, 96), "'t0' and 't1' overlap"),
    "a tensor within another": (tensors_at(64, 0, shape=(64,)), "overlap"),
    "a crooked offset": (tensors_at(7), "not aligned"),
    "a tensor twice": (header(2, 0, tensor_entry("t", (8,), 0, 0) * 2) + bytes(4096), "one of them twice"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    content, said = HOSTILE[name]
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    with pytest.raises(HeaderError, match=said) as caught:
        read_header(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", range(0, 600, 7))
def test_a_truncated_file_is_refused_wherever_it_ends(length: int, tmp_path: Path) -> None:
    file = tiny_model(tmp_path / "model.gguf")
    assert file.stat().st_size > 600
    os.truncate(file, length)
    with pytest.raises(HeaderError):
        read_header(file)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_changed_in_a_header_it_is_read_or_refused(data: Any, tmp_path: Path) -> None:
    file = tiny_model(tmp_path / "model.gguf")
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(4, len(content) - 9))
        content[at : at + 8] = data.draw(
            st.sampled_from([b"\xff" * 8, bytes(8), struct.pack("<Q", HUGE), struct.pack("<Q", 1 << 32)])
            | st.binary(min_size=8, max_size=8)
        )
    file.write_bytes(content)
    try:
        read = read_header(file)
    except HeaderError:
        return
    assert all(tensor.offset + tensor.size_bytes <= len(content) for tensor in read.tensors)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=400))
def test_any_bytes_after_the_magic_are_read_or_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF\x03\0\0\0" + content)
    with pytest.raises(HeaderError):
        read_header(file)


def test_an_honest_header_is_read(tmp_path: Path) -> None:
    tokens = [f"token {number} €" for number in range(100)]
    metadata: dict[str, Entry] = {
        "general.alignment": 32,
        "tokens": tokens,
        "types": list(range(100)),
        "short": ["a", "b"],
        "base": 1e6,
    }
    file = make_gguf(tmp_path / "m.gguf", metadata, {"b": ("Q8_0", (32, 2), bytes(68)), "a": ("F32", (8,), bytes(32))})
    read = read_header(file)
    assert [(tensor.name, tensor.ggml.name, tensor.elements) for tensor in read.tensors] == [
        ("b", "Q8_0", 64),
        ("a", "F32", 8),
    ]
    assert read_texts(file, read.metadata["tokens"]) == tokens
    assert read_numbers(file, read.metadata["types"]) == list(range(100))
    assert read_texts(file, read.metadata["short"]) == ["a", "b"]
    assert not read_texts(file, read.metadata["base"])
    assert not read_numbers(file, None)
    assert read.metadata["base"] == 1e6


def test_the_table_of_types_is_that_of_the_gguf_package() -> None:
    import gguf

    sizes = {int(kind): (kind.name, *size) for kind, size in gguf.GGML_QUANT_SIZES.items()}
    assert {number: tuple(ggml) for number, ggml in TYPES.items()} == sizes


@pytest.mark.parametrize("name", ["2^63 tensors", "a text of 4 GB", "another kind of file", "overlapping tensors"])
def test_the_child_that_scans_says_why_in_one_line(name: str, tmp_path: Path) -> None:
    content, said = HOSTILE[name]
    file = tmp_path / "bad.gguf"
    file.write_bytes(content)
    with pytest.raises(ImportFailed, match=rf"\Abad: can't be imported: [^\n]*{said}[^\n]*\Z"):
        scan(file, "bad", Silent())


def test_the_child_that_scans_is_held_to_its_memory(tmp_path: Path) -> None:
    """Not by luck: what takes more than the limit ends it, in one line."""
    script = (
        "import sys\nfrom pathlib import Path\nfrom appliance.engine.errand import run_errand\n"
        "from appliance.models import steps\nfrom appliance.models.gguf import facts\n"
        "facts.read_facts = lambda file: bytearray(4 << 30)\n"
        "sys.exit(run_errand(lambda: steps.scan(Path(sys.argv[1]))))"
    )
    file = tiny_model(tmp_path / "model.gguf")
    ended = subprocess.run([sys.executable, "-c", script, str(file)], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert '"error": "it took more memory' in ended.stdout


def test_a_scan_is_small(tmp_path: Path) -> None:
    tokens = [f"token {number}" for number in range(150_000)]
    file = tiny_model(tmp_path / "model.gguf", {**QWEN, "tokenizer.ggml.tokens": tokens})
    script = (
        "import resource, subprocess, sys\n"
        "subprocess.run([sys.executable, '-m', 'appliance.models.steps', 'scan', sys.argv[1]], check=True)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(file)], capture_output=True, text=True, check=True)
    assert int(ended.stdout.splitlines()[-1]) < 200_000  # kilobytes
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY  # nothing of it is left here

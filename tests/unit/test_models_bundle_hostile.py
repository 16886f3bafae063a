"""Bundles that are damaged, or whose tar was made to do harm: one line each, and nothing is written."""

import os
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.models.bundle import layout
from appliance.models.bundle.installing import Installer
from appliance.models.bundle.reading import open_bundle
from appliance.models.errors import BundleRefused, ManifestTooNew
from appliance.models.manifest import encode_manifest
from appliance.models.progress import Silent
from appliance.models.store import Store
from tests.support.bundle import (
    LICENCE,
    bundle_of,
    changed,
    good_bytes,
    index_of,
    info,
    members_of,
    refused,
    tar_of,
    with_index,
)

Members = list[tuple[tarfile.TarInfo | str, bytes]]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    bundle = tmp_path / "fake.tar"
    bundle.write_bytes(good_bytes())
    return bundle


def test_each_changed_byte_is_noticed(good: Path, store: Store) -> None:
    text = good.read_bytes()
    for at in range(0, len(text), 13):  # odd, so that it drifts through the fields of the headers
        damaged = bytearray(text)
        damaged[at] ^= 1 + at % 255
        good.write_bytes(damaged)
        refused(good, store, (BundleRefused, ManifestTooNew))


def test_each_length_but_the_right_one_is_noticed(good: Path, store: Store) -> None:
    text = good.read_bytes()
    for length in [*range(0, len(text), 97), len(text) - 1, len(text) - 512, len(text) - 1024]:
        good.write_bytes(text[:length])
        assert re.search(r"is cut short: [\d,]+ of [\d,]+ bytes|is cut short; copy|too short", refused(good, store))
    for tail in (b"x", bytes(512), bytes(9216), text):
        good.write_bytes(text + tail)
        assert f"is damaged: {len(tail):,} bytes behind its end" in refused(good, store)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "is no bundle: it is too short for one"),
        (b"GGUF" + bytes(600), "is no bundle: it begins with no header, not with bundle.json"),
        (bytes(2048), "is no bundle: it begins with the end"),
        (b"\x1f\x8b" + bytes(600), "is no bundle"),
        (layout.header("bundle.json", 8), "is cut short; copy it again"),
        (layout.header("bundle.json", layout.MOST_INDEX_BYTES + 1), "is no bundle"),
        (layout.header("bundle.json", layout.MOST_FILE_BYTES), "is no bundle"),
        (layout.header("bundle.json", 4) + b"null".ljust(512, b"\0"), "is no bundle: its bundle.json is not JSON"),
        (layout.header("bundle.json", 2) + b"{}".ljust(512, b"\0"), "is no bundle: its bundle.json is of another kind"),
        (layout.header("bundle.json", 65_000) + b"[" * 65_536, "is damaged: there is something between"),
        (layout.header("bundle.json", 65_536) + b"[" * 65_536, "is no bundle: its bundle.json is not JSON"),
    ],
)
def test_what_is_no_bundle_is_told(tmp_path: Path, store: Store, text: bytes, said: str) -> None:
    file = tmp_path / "x.tar"
    file.write_bytes(text)
    assert said in refused(file, store)


def test_other_things_than_files_are_no_bundles(tmp_path: Path, store: Store) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, said in (("pipe", "not a regular file"), (".", "not a regular file"), ("none", "No such file")):
        assert said in refused(tmp_path / name, store)
    assert "not a regular file" in refused(Path("/dev/zero"), store)


HEADERS: list[tuple[str, Callable[[int], tarfile.TarInfo], str]] = [
    ("symlink", lambda n: info("openvino_model.bin", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "a symbolic link"),
    ("hard link", lambda n: info("openvino_model.bin", type=tarfile.LNKTYPE, linkname="../x"), "a hard link"),
    ("device", lambda n: info("openvino_model.bin", type=tarfile.CHRTYPE, devmajor=1, devminor=5), "a device"),
    ("block device", lambda n: info("openvino_model.bin", type=tarfile.BLKTYPE), "a device"),
    ("pipe", lambda n: info("openvino_model.bin", type=tarfile.FIFOTYPE), "a pipe"),
    ("directory", lambda n: info("openvino_model.bin", type=tarfile.DIRTYPE), "a directory"),
    ("sparse", lambda n: info("openvino_model.bin", n, type=tarfile.GNUTYPE_SPARSE), "a sparse file"),
    ("extended header", lambda n: info("openvino_model.bin", n, type=tarfile.XHDTYPE), "an extended header"),
    ("global header", lambda n: info("openvino_model.bin", n, type=tarfile.XGLTYPE), "an extended header"),
    ("GNU long name", lambda n: info("openvino_model.bin", n, type=tarfile.GNUTYPE_LONGNAME), "an extended header"),
    ("above", lambda n: info("../openvino_model.bin", n), "a file '../openvino_model.bin'"),
    ("absolute", lambda n: info("/etc/cron.d/x", n), "a file '/etc/cron.d/x'"),
    ("below", lambda n: info("a/openvino_model.bin", n), "a file 'a/openvino_model.bin'"),
    ("terminal", lambda n: info("\x1b[2Jx", n), r"a file '\\x1b\[2Jx'"),
    ("another name", lambda n: info("openvino_model.bim", n), "a file 'openvino_model.bim'"),
]


@pytest.mark.parametrize(("header", "said"), [row[1:] for row in HEADERS], ids=[row[0] for row in HEADERS])
def test_a_member_that_is_not_the_one_in_the_index_is_refused(
    good: Path, store: Store, header: Callable[[int], tarfile.TarInfo], said: str
) -> None:
    """Without the size of what stands for it, so that the whole has the right length and only the header is wrong."""
    text = good.read_bytes()
    members = dict(members_of(good))
    before = list(members)[: list(members).index("openvino_model.bin")]
    at = sum(layout.stored_bytes(len(members[name])) for name in before)
    assert text[at : at + 18] == b"openvino_model.bin"
    good.write_bytes(text[:at] + header(7).tobuf(tarfile.USTAR_FORMAT)[:512] + text[at + 512 :])
    assert re.search(rf"is damaged: {said}( \S+)? is in the place of openvino_model\.bin;", refused(good, store))


@pytest.mark.parametrize("changes", [{"mode": 0o4755}, {"uid": 1}, {"gname": "root"}, {"mtime": 1}, {"size": 8}])
def test_a_header_says_nothing_but_a_name_and_the_size_in_the_index(
    good: Path, store: Store, changes: dict[str, Any]
) -> None:
    text = good.read_bytes()
    header = info("openvino_model.bin", **{"size": 7, **changes}).tobuf(tarfile.USTAR_FORMAT)[:512]
    good.write_bytes(text.replace(layout.header("openvino_model.bin", 7), header))
    said = refused(good, store)
    assert "is damaged: the header of openvino_model.bin has another size, mode, owner or time" in said


def remade(good: Path, edit: Callable[[Members], Members]) -> Path:
    members: Members = list(members_of(good))
    return tar_of(good, edit(members))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda m: [*m, ("hidden", b"x")], "1,024 bytes behind its end"),
        (lambda m: [*m, m[-1]], "1,024 bytes behind its end"),
        (lambda m: [m[0], ("hidden", b"x"), *m[1:]], "1,024 bytes behind its end"),
        (lambda m: [m[0], *m[1:-1]], "is cut short"),
        (lambda m: [m[0], m[2], m[1], *m[3:]], "is in the place of LICENSE"),
        (lambda m: [*m[:-2], m[-1], m[-2]], "is in the place of openvino_tokenizer.bin"),
        (lambda m: m[1:], "it begins with a file 'LICENSE', not with bundle.json"),
        (lambda m: [m[0], m[0], *m[1:]], "bytes behind its end"),
        (lambda m: [m[0], ("bundle.sig", b"x" * 2000), *m[1:]], "bytes behind its end"),
    ],
    ids=["one more", "one twice", "one between", "one less", "swapped", "swapped files", "no index", "two", "big sig"],
)
def test_members_are_those_of_the_index_in_its_order(
    good: Path, store: Store, edit: Callable[[Members], Members], said: str
) -> None:
    assert said in refused(remade(good, edit), store)


def test_a_file_that_changes_while_it_is_read_leaves_nothing(good: Path, store: Store) -> None:
    text = good.read_bytes()
    at = text.rindex(b"weights")

    class Changing(Silent):
        """Somebody writes to the bundle between the check and the copy."""

        def stage(self, label: str, total_bytes: int | None = None) -> None:
            if "copying" in label:
                with good.open("r+b") as file:
                    file.seek(at)
                    file.write(b"weightz")

    with (
        open_bundle(good) as opened,
        pytest.raises(BundleRefused, match=r"is damaged: openvino_model\.bin: sha256 .*; nothing was installed"),
    ):
        Installer(store=store, progress=Changing(), wait_s=5).install(opened)
    assert [entry.name for entry in store.directory.iterdir()] == [".lock"]


def test_what_tests_make_of_a_good_bundle_is_good(good: Path, store: Store) -> None:
    """So that the tests above fail for their own reason."""
    text = good.read_bytes()
    assert tar_of(good, members_of(good)).read_bytes() == text
    assert bundle_of(good, *changed(good)).read_bytes() == text
    manifest, files = changed(good)
    assert index_of(manifest, files) == dict(members_of(good))["bundle.json"]
    assert encode_manifest(manifest) == dict(members_of(good))["manifest.json"]
    assert dict(members_of(good))["LICENSE"] == LICENCE
    assert with_index(good).read_bytes() == text
    with open_bundle(good) as opened:
        assert Installer(store=store, progress=Silent(), wait_s=5).install(opened).outcome == "installed"

"""Bundles that are damaged, or made to do harm: one line each, and nothing is written."""

import hashlib
import json
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
from appliance.models.errors import BundleRefused, BundleTooNew, ManifestTooNew
from appliance.models.manifest import MODEL_FILES, OpenVinoVersions, encode_manifest
from appliance.models.progress import Silent
from appliance.models.store import Store
from tests.support.bundle import LICENCE, bundle_of, changed, good_bundle, index_of, info, members_of, tar_of

Members = list[tuple[tarfile.TarInfo | str, bytes]]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(scope="module")
def good_text(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Made once: installing a model to bundle costs more than most tests here."""
    return good_bundle(tmp_path_factory.mktemp("good")).read_bytes()


@pytest.fixture
def good(tmp_path: Path, good_text: bytes) -> Path:
    bundle = tmp_path / "fake.tar"
    bundle.write_bytes(good_text)
    return bundle


def refused(bundle: Path, store: Store, error: type[Exception] | tuple[type[Exception], ...] = BundleRefused) -> str:
    """What is said of it: one line, without anything that moves a cursor. Nothing has been written."""
    with pytest.raises(error) as caught, open_bundle(bundle) as opened:
        Installer(store=store, progress=Silent(), wait_s=5).install(opened)
    said = str(caught.value)
    assert said.startswith(f"{bundle} ")
    assert said.isprintable()
    assert len(said) < 1500
    assert not store.directory.exists()
    return said


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


def with_index(good: Path, **changes: Any) -> Path:
    """The bundle with another index, which fits nothing else."""
    members = dict(members_of(good))
    index = {**json.loads(members["bundle.json"]), **changes}
    return tar_of(good, [("bundle.json", (json.dumps(index, indent=1) + "\n").encode()), *list(members.items())[1:]])


def members_with(good: Path, position: int, **changes: Any) -> list[dict[str, Any]]:
    members: list[dict[str, Any]] = json.loads(dict(members_of(good))["bundle.json"])["members"]
    members[position] |= changes
    return members


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/etc/passwd",
        "a/b",
        ".hidden",
        "",
        "x" * 101,
        "a\0b",
        "a\n",
        "ä",
        "\x1b[2J",
        "a b",
        "-rf",
        "C:x",
        "..",
        ".",
    ],
)
def test_names_are_of_a_closed_set_of_characters(good: Path, store: Store, name: str) -> None:
    assert "is damaged: bundle.json" in refused(with_index(good, members=members_with(good, 3, name=name)), store)


@pytest.mark.parametrize(
    ("position", "changes", "said"),
    [
        (-1, {"name": "z"}, "of different models"),
        (2, {"name": "bundle.json"}, "names a file of the model as one of the bundle's own"),
        (3, {"name": "LICENSE"}, "bundle.json"),
        (3, {"name": "manifest.json"}, "bundle.json"),
        (3, {"name": "openvino_model.bin"}, "not in their order, or one is there twice"),
        (0, {"name": "License"}, "not in their order"),
        (2, {"size_bytes": -1}, "bundle.json"),
        (2, {"size_bytes": 1 << 40}, "bundle.json"),
        (2, {"size_bytes": 10**400}, "bundle.json"),
        (2, {"size_bytes": 7.0}, "bundle.json"),
        (2, {"size_bytes": layout.MOST_FILE_BYTES}, "is cut short: "),
        (2, {"size_bytes": 6}, "of different models"),
        (0, {"size_bytes": layout.MOST_TEXT_BYTES + 1}, "LICENSE has more than 1,048,576 bytes"),
        (1, {"size_bytes": layout.MOST_TEXT_BYTES + 1}, "manifest.json has more than 1,048,576 bytes"),
        (2, {"sha256": "0" * 64}, "of different models"),
        (2, {"sha256": "0" * 63}, "bundle.json"),
        (2, {"mode": 0o777}, "bundle.json"),
    ],
)
def test_an_index_that_can_not_be_is_refused(
    good: Path, store: Store, position: int, changes: dict[str, Any], said: str
) -> None:
    assert said in refused(with_index(good, members=members_with(good, position, **changes)), store)


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "../x"},
        {"id": "other"},
        {"digest": "0" * 64},
        {"digest": ""},
        {"members": []},
        {"members": "all"},
        {"format": 0},
        {"format": -1},
        {"format": "1"},
        {"format": 10**400},
        {"kind": "something"},
        {"more": 1},
        {"\x1b[2J": 1},
    ],
)
def test_an_index_with_other_values_is_refused(good: Path, store: Store, changes: dict[str, Any]) -> None:
    assert re.search(r"is damaged|is no bundle", refused(with_index(good, **changes), store))


def test_as_many_members_as_one_likes_are_refused(good: Path, store: Store) -> None:
    member = {"name": "x", "size_bytes": 0, "sha256": "0" * 64}
    many = [{**member, "name": f"x{number:03}"} for number in range(layout.MOST_FILES + 1)]
    members = [*members_with(good, 0)[:2], *many]
    assert "bundle.json" in refused(with_index(good, members=members), store)


def test_an_index_has_one_form(good: Path, store: Store) -> None:
    members = dict(members_of(good))
    for text in (
        members["bundle.json"] + b" ",
        members["bundle.json"].replace(b'"format": 1,', b'"format": 1, "format": 1,'),
        json.dumps(json.loads(members["bundle.json"])).encode(),
    ):
        other = tar_of(good, [("bundle.json", text), *list(members.items())[1:]])
        assert "is not in the one form that an index has" in refused(other, store)


@pytest.mark.parametrize("format", [2, 999_999])
def test_a_bundle_of_a_newer_format_needs_a_newer_appliance(good: Path, store: Store, format: int) -> None:
    said = refused(with_index(good, format=format, members={"of": "another form"}), store, BundleTooNew)
    assert said == f"{good} has format {format} and needs a newer appliance: this one knows 1; nothing was installed"


def with_manifest(good: Path, text: bytes) -> Path:
    members = dict(members_of(good))
    changes = {"size_bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}
    index = {**json.loads(members["bundle.json"]), "members": members_with(good, 1, **changes)}
    members |= {"bundle.json": (json.dumps(index, indent=1) + "\n").encode(), "manifest.json": text}
    return tar_of(good, members.items())


def test_a_manifest_of_a_newer_appliance_says_upgrade(good: Path, store: Store) -> None:
    manifest = json.loads(dict(members_of(good))["manifest.json"])
    newer = with_manifest(good, json.dumps({**manifest, "format": 2, "files": []}).encode())
    assert "its manifest.json: format 2 of a newer appliance" in refused(newer, store, ManifestTooNew)
    newer = with_manifest(good, json.dumps({**manifest, "voice": "loud", "digest": "0" * 64}).encode())
    assert "this appliance does not know 'voice'; upgrade" in refused(newer, store, ManifestTooNew)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"format": 1}'])
def test_a_damaged_manifest_is_refused(good: Path, store: Store, text: bytes) -> None:
    assert "is damaged: manifest.json" in refused(with_manifest(good, text), store)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"title": "\x1b]0;gone\x07"}, "title in the manifest is no line of text"),
        ({"title": "two\nlines"}, "title in the manifest is no line of text"),
        ({"title": "\u202egnp.exe"}, "title in the manifest is no line of text"),
        ({"title": "x" * 1001}, "title in the manifest is no line of text"),
        ({"languages": ("en", "\x1b")}, "languages in the manifest is no line of text"),
        ({"context_tokens": 0}, "impossible numbers of tokens"),
        ({"context_tokens": 1 << 60}, "impossible numbers of tokens"),
        ({"eos_token_ids": ()}, "impossible numbers of tokens"),
        ({"eos_token_ids": (-1,)}, "impossible numbers of tokens"),
        ({"parameters": -1}, "an impossible number of parameters"),
        ({"openvino": OpenVinoVersions("9999999.4²", "1.0")}, "fake was written by OpenVINO 9999999.4²"),
    ],
)
def test_a_manifest_that_would_harm_whoever_reads_it_is_refused(
    good: Path, store: Store, changes: dict[str, Any], said: str
) -> None:
    assert said in refused(bundle_of(good, *changed(good, **changes)), store)


def test_a_manifest_with_an_impossible_id_is_refused(good: Path, store: Store) -> None:
    text = dict(members_of(good))["manifest.json"].replace(b'"id": "fake"', b'"id": "../x"')
    assert "is damaged: manifest.json: Expected `str` matching" in refused(with_manifest(good, text), store)


@pytest.mark.parametrize("lacks", MODEL_FILES)
def test_a_model_that_lacks_a_file_is_refused_with_its_name(good: Path, store: Store, lacks: str) -> None:
    manifest, files = changed(good)
    del files[lacks]
    records = {name: record for name, record in manifest.files.items() if name in files}
    assert f"the model has no {lacks}" in refused(bundle_of(good, changed(good, files=records)[0], files), store)


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

"""Bundles of a good form whose index or manifest says what can't be: one line each, and nothing is written."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from appliance.models.bundle import layout
from appliance.models.errors import BundleTooNew, ManifestTooNew
from appliance.models.manifest import MODEL_FILES, OpenVinoVersions
from appliance.models.store import Store
from tests.support.bundle import (
    bundle_of,
    changed,
    good_bytes,
    members_of,
    members_with,
    refused,
    tar_of,
    with_index,
)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    bundle = tmp_path / "fake.tar"
    bundle.write_bytes(good_bytes())
    return bundle


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

"""manifest.json: what is read is what was written, and everything else has a clear error."""

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from appliance.models.errors import ManifestTooNew, ModelDamaged
from appliance.models.fake import install_fake
from appliance.models.manifest import content_digest, encode_manifest, read_manifest, sealed
from appliance.models.store import Installed, Store


@pytest.fixture
def model(tmp_path: Path) -> Installed:
    return install_fake(Store(tmp_path / "store"))


def rewrite(model: Installed, **changes: Any) -> None:
    file = model.directory / "manifest.json"
    content = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps({**content, **changes}), "utf-8")


def test_what_is_read_is_what_was_written(model: Installed) -> None:
    assert read_manifest(model.directory, "fake") == model.manifest
    assert encode_manifest(model.manifest) == (model.directory / "manifest.json").read_bytes()


def test_the_digest_is_of_the_content_and_not_of_the_time(model: Installed) -> None:
    assert content_digest(replace(model.manifest, created_at="2001-01-01")) == model.manifest.digest
    assert sealed(replace(model.manifest, eos_token_ids=(3,))).digest != model.manifest.digest


def test_a_newer_format_says_upgrade(model: Installed) -> None:
    rewrite(model, format=2, files="of another shape")
    with pytest.raises(ManifestTooNew, match=r"format 2 .* upgrade the appliance"):
        read_manifest(model.directory, "fake")


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '{"format": 1}', "\xff", '{"id": "\xff"}'])
def test_damaged_json_names_the_file_and_the_remedy(model: Installed, text: str) -> None:
    (model.directory / "manifest.json").write_text(text, "latin-1")
    with pytest.raises(ModelDamaged, match=r"manifest\.json is damaged: .*; run: appliance models pull --force fake"):
        read_manifest(model.directory, "fake")


def test_a_missing_manifest_is_damage(model: Installed) -> None:
    (model.directory / "manifest.json").unlink()
    with pytest.raises(ModelDamaged, match="can't be read: No such file"):
        read_manifest(model.directory, "fake")


def test_a_changed_value_does_not_pass(model: Installed) -> None:
    rewrite(model, eos_token_ids=[7])
    with pytest.raises(ModelDamaged, match="its digest is not that of its content"):
        read_manifest(model.directory, "fake")


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", ".hidden", "a/b", ""])
def test_a_file_name_can_not_leave_the_directory(model: Installed, name: str) -> None:
    rewrite(model, files={name: {"sha256": "0" * 64, "size_bytes": 1}})
    with pytest.raises(ModelDamaged, match="is damaged"):
        read_manifest(model.directory, "fake")


def test_a_manifest_in_another_models_place_is_damage(model: Installed) -> None:
    with pytest.raises(ModelDamaged, match=f"belongs to fake/{model.directory.name}"):
        read_manifest(model.directory, "other")

"""verify: every kind of damage is found and named, and releases of OpenVINO are compared."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from appliance.models.errors import ModelDamaged
from appliance.models.fake import install_fake
from appliance.models.manifest import OpenVinoVersions
from appliance.models.store import Installed, Store
from appliance.models.verification import require_sound, verify

HERE = OpenVinoVersions("2026.4.1", "2026.4.1.0")


@pytest.fixture
def model(tmp_path: Path) -> Installed:
    model = install_fake(Store(tmp_path / "store"))
    return Installed(model.directory, replace(model.manifest, openvino=HERE))


def test_a_model_as_installed_is_sound(model: Installed) -> None:
    found = verify(model.manifest, model.directory, HERE)
    assert found.sound
    assert found.warnings == ()


def test_one_changed_byte_is_found(model: Installed) -> None:
    (model.directory / "openvino_model.bin").write_bytes(b"Weights")
    (problem,) = verify(model.manifest, model.directory, HERE).problems
    assert f"{model.directory}/openvino_model.bin is damaged: sha256 " in problem
    assert problem.endswith("; run: appliance models pull --force fake")


def test_a_missing_file_is_found(model: Installed) -> None:
    (model.directory / "openvino_tokenizer.xml").unlink()
    (problem,) = verify(model.manifest, model.directory, HERE).problems
    assert f"{model.directory}/openvino_tokenizer.xml is missing" in problem


def test_a_wrong_size_is_found_and_told(model: Installed) -> None:
    (model.directory / "openvino_model.bin").write_bytes(b"weights and more")
    (problem,) = verify(model.manifest, model.directory, HERE).problems
    assert "openvino_model.bin is damaged: size 16 bytes, expected 7" in problem


def test_a_link_is_no_model_file(model: Installed, tmp_path: Path) -> None:
    file = model.directory / "openvino_model.bin"
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    (problem,) = verify(model.manifest, model.directory, HERE).problems
    assert "is not a regular file" in problem


def test_a_stray_file_is_a_warning(model: Installed) -> None:
    (model.directory / "generation_config.json").write_text("{}", "utf-8")
    found = verify(model.manifest, model.directory, HERE)
    assert found.sound
    assert "generation_config.json is not part of the model" in found.warnings[0]


def test_a_model_of_a_newer_openvino_is_refused_with_both_releases(model: Installed) -> None:
    found = verify(model.manifest, model.directory, OpenVinoVersions("2026.3.0", "2026.4.0.0"))
    (problem,) = found.problems
    assert "fake was written by OpenVINO 2026.4.1, newer than 2026.3.0 here; upgrade the appliance" in problem


@pytest.mark.parametrize("release", ["2026.5.0", "2026.10.0", "2027.0.0"])
def test_a_model_of_an_older_openvino_is_a_warning(model: Installed, release: str) -> None:
    found = verify(model.manifest, model.directory, OpenVinoVersions(release, "2026.4.1.0"))
    assert found.sound
    (warning,) = found.warnings
    assert f"fake was written by OpenVINO 2026.4.1, {release} is here; to renew it run: appliance models" in warning


def test_a_patch_release_makes_no_difference(model: Installed) -> None:
    assert verify(model.manifest, model.directory, OpenVinoVersions("2026.4.0", "2026.4.9.9")).warnings == ()


def test_require_sound_raises_one_line_for_exit_status_78(model: Installed) -> None:
    (model.directory / "openvino_model.bin").unlink()
    (model.directory / "openvino_model.xml").unlink()
    one_line = r"\Amodel fake: [^\n]*openvino_model\.bin is missing; [^\n]* \(and 1 more\)\Z"
    with pytest.raises(ModelDamaged, match=one_line) as caught:
        require_sound(model.manifest, model.directory, HERE)
    assert caught.value.exit_status == 78

"""What can be named to be measured, and what is said of anything else."""

from pathlib import Path

import numpy as np
import pytest

from appliance.errors import ConfigError
from appliance.models.errors import ModelDamaged, NotInstalled
from appliance.models.fake import install_fake
from appliance.models.gguf.header import read_header
from appliance.models.manifest import MODEL_FILES
from appliance.models.measuring.artefacts import (
    Artefact,
    Weights,
    find_artefact,
    weights_of_gguf,
    weights_of_ir,
    with_clear_names,
)
from appliance.models.measuring.measure import notes_of
from appliance.models.measuring.room import BASE_BYTES, TooLittleMemory, groups_of
from appliance.models.store import Store
from tests.support.gguf import QWEN, floats, make_gguf, tiny_model

GB = 1 << 30


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def ir(tmp_path: Path) -> Path:
    directory = tmp_path / "ir"
    directory.mkdir()
    for name in MODEL_FILES:
        (directory / name).write_text("<net/>", "utf-8")
    return directory


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "tiny.gguf")


def test_an_installed_model_is_found_by_its_id(store: Store) -> None:
    model = install_fake(store)
    found = find_artefact("fake", store)
    assert (found.name, found.source, found.path) == ("fake", "installed", model.directory)
    assert found.digest == model.manifest.digest


def test_one_of_several_is_found_by_its_digest(store: Store) -> None:
    first = install_fake(store, content=b"one")
    second = install_fake(store, content=b"two")
    for model in (first, second):
        name = model.directory.name
        assert find_artefact(f"fake@{name[:10]}", store).path == model.directory
        assert find_artefact(f"fake@{model.manifest.digest}", store).name == f"fake@{name[:8]}"


def test_files_and_directories_are_found_by_their_paths(
    store: Store, ir: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ir.parent)
    for named in (str(ir), "ir", "./ir"):
        assert find_artefact(named, store).source == "ir"
        assert find_artefact(named, store).name == "ir"
    for named in (str(gguf), "tiny.gguf"):
        assert (find_artefact(named, store).source, find_artefact(named, store).name) == ("gguf", "tiny.gguf")


def test_an_installed_model_comes_before_a_directory_of_its_name(
    store: Store, ir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_fake(store, "ir")
    monkeypatch.chdir(ir.parent)
    assert find_artefact("ir", store).source == "installed"
    assert find_artefact("./ir", store).source == "ir"


@pytest.mark.parametrize(
    ("named", "kind", "said"),
    [
        ("missing", NotInstalled, "see: appliance models list"),
        ("fake@0000", NotInstalled, "fake with digest 0000 is not installed"),
        ("fake@", ConfigError, "give the digest"),
        ("./missing", ConfigError, "./missing is not there; name an installed model"),
        ("No Such Model", ConfigError, "can't be a model's id"),
    ],
)
def test_what_is_not_there_is_told(named: str, kind: type[Exception], said: str, store: Store) -> None:
    install_fake(store)
    with pytest.raises(kind, match=said):
        find_artefact(named, store)


def test_a_directory_without_files_is_told_with_what_is_missing(store: Store, ir: Path) -> None:
    (ir / "openvino_model.bin").unlink()
    (ir / "openvino_tokenizer.xml").unlink()
    with pytest.raises(ConfigError, match=r"has no openvino_model\.bin, openvino_tokenizer\.xml; name a directory"):
        find_artefact(str(ir), store)


def test_a_file_that_is_no_gguf_is_told(store: Store, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ConfigError, match="is no GGUF file"):
        find_artefact(str(tmp_path / "model.safetensors"), store)


def test_a_damaged_model_is_not_measured(store: Store) -> None:
    model = install_fake(store)
    (model.directory / "openvino_model.bin").write_bytes(b"x")
    with pytest.raises(ModelDamaged, match="appliance models pull --force fake"):
        find_artefact("fake", store)


def test_names_that_would_be_the_same_are_told_apart(store: Store, tmp_path: Path) -> None:
    places = [tmp_path / "a" / "model", tmp_path / "b" / "model", tmp_path / "other"]
    artefacts = [Artefact(name=place.name, source="ir", path=place) for place in places]
    named = [str(place) for place in places]
    assert [one.name for one in with_clear_names(artefacts, named)] == [named[0], named[1], "other"]
    with pytest.raises(ConfigError, match="is named twice"):
        with_clear_names(artefacts[:1] * 2, named[:1] * 2)


def test_weights_are_described_and_integers_found(ir: Path) -> None:
    xml = ir / "openvino_model.xml"
    xml.write_text('<data element_type="f16" shape="64, 32" offset="0" size="4096" />', "utf-8")
    assert (weights_of_ir(ir).described, weights_of_ir(ir).integer_types) == ("F16", [])
    xml.write_text('<data element_type="u4" shape="64, 4, 128" offset="0" size="4096" />', "utf-8")
    assert weights_of_ir(ir).integer_types == ["INT4 symmetric group 128 (0 M weights)"]


def test_a_gguf_reads_its_own_bytes_and_one_row_of_an_embedding_that_it_does_not_share(tmp_path: Path) -> None:
    embedding, output = ("Q8_0", (32, 64), bytes(64 * 34)), ("Q4_0", (32, 64), bytes(64 * 18))
    tied = {"token_embd.weight": embedding, "norm": floats(np.ones(32, np.float32))}
    for tensors, read in ((tied, 64 * 34 + 128), (tied | {"output.weight": output}, 64 * 18 + 128)):
        header = read_header(make_gguf(tmp_path / "m.gguf", QWEN, tensors))
        weights = weights_of_gguf(header, ["Q8_0", "Q4_0", "F16"])
        assert weights.read_bytes == read
        assert weights.integer_types == ["Q8_0", "Q4_0"]


def test_a_reference_that_is_dequantized_is_said_to_be() -> None:
    artefact = Artefact(name="model.gguf", source="gguf", path=Path("model.gguf"))
    weights = Weights(described="", read_bytes=1, integer_types=["Q4_K", "Q6_K"])
    (note,) = notes_of(artefact, weights, 0)
    assert note.startswith("the reference is itself dequantized: model.gguf holds Q4_K, Q6_K, so distances are those")
    exact = Weights(described="BF16", read_bytes=1, integer_types=[])
    assert notes_of(artefact, exact, 2) == ["2 samples are longer than 2048 tokens, and were read so far only"]
    assert notes_of(artefact, exact, 0) == []


def test_artefacts_share_a_pass_of_the_reference_as_memory_allows() -> None:
    available = BASE_BYTES + 10 * GB
    assert groups_of(2 * GB, [3 * GB, 3 * GB, 3 * GB, 1 * GB, 8 * GB], available) == [[0, 1], [2, 3], [4]]
    assert groups_of(2 * GB, [], available) == []
    with pytest.raises(TooLittleMemory, match=r"takes about 12,\d+ MB of memory, \d+,\d+ MB are free; stop the daemon"):
        groups_of(2 * GB, [1 * GB, 9 * GB], available)

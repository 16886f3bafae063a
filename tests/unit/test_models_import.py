"""`appliance models import`: ids, what is taken from where, what a repeat does. The converter is a fake."""

import errno
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from appliance.cli.models import app
from appliance.errors import ConfigError
from appliance.models import pull
from appliance.models.catalog import Catalog, CatalogModel, FileSource
from appliance.models.errors import DigestMismatch, DiskFull, ImportFailed, SourceUnavailable
from appliance.models.facts import Facts
from appliance.models.fake import convert_fake, fake_model
from appliance.models.importers import Converted, fetching, quantizing
from appliance.models.importers.file import FileImporter, describe_file, digest_of, id_of
from appliance.models.importers.quantizing import QuantizingConverter, convert_copy, require_room
from appliance.models.progress import Progress, Silent
from appliance.models.recipes import DEFAULT_RECIPE, Recipe, load_recipe
from appliance.models.store import Store
from appliance.models.verification import mending, verify
from tests.support.gguf import QWEN, tiny_model

runner = CliRunner()

FACTS = Facts(
    architecture="qwen2",
    name="Tiny Qwen 0.1B Instruct",
    context_tokens=4096,
    parameters=128,
    f16_bytes=256,
    matrix_types=("Q5_0", "Q8_0"),
    eos_tokens=("<|im_end|>",),
)


class FakeConverter:
    """In the place of QuantizingConverter."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def __call__(self, gguf: Path, directory: Path, model: CatalogModel, progress: Progress) -> Converted:
        return replace(convert_fake(gguf, directory, model, progress), recipe=self.recipe.name, parameters=100)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("APPLIANCE__MODELS__DIRECTORY", str(tmp_path / "store"))
    monkeypatch.setattr(pull, "QuantizingConverter", FakeConverter)
    return Store(tmp_path / "store")


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "tiny.gguf")


def test_a_file_is_installed_with_what_it_says_of_itself(store: Store, gguf: Path) -> None:
    result = runner.invoke(app, ["import", str(gguf), "--json"])
    assert result.exit_code == 0, result.stderr
    shown = json.loads(result.stdout)
    assert (shown["outcome"], shown["id"]) == ("installed", "tiny-qwen-0.1b-instruct")
    manifest = store.choose(["tiny-qwen-0.1b-instruct"]).manifest
    assert (manifest.title, manifest.licence) == ("Tiny Qwen 0.1B Instruct", "Apache-2.0")
    assert (manifest.context_tokens, manifest.parameters, manifest.recipe) == (4096, 100, "int4-mixed")
    assert manifest.quantization.startswith("int4-mixed of F32: INT4")
    assert manifest.source.kind == "file"
    assert manifest.source.file == "tiny.gguf"
    assert manifest.source.sha256 == hashlib.sha256(gguf.read_bytes()).hexdigest()
    assert manifest.generation.top_k == 20


def test_the_recipe_can_be_chosen(store: Store, gguf: Path, tmp_path: Path) -> None:
    chosen = runner.invoke(app, ["import", str(gguf), "--recipe", "all-int4-g64-awq"])
    assert chosen.exit_code == 0, chosen.stderr
    assert store.choose(["tiny-qwen-0.1b-instruct"]).manifest.recipe == "all-int4-g64-awq"
    again = runner.invoke(app, ["import", str(gguf)])
    assert isinstance(again.exception, ConfigError)
    assert "is installed from tiny.gguf (all-int4-g64-awq of F32" in str(again.exception)
    wrong = runner.invoke(app, ["import", str(gguf), "--recipe", "int3"])
    assert isinstance(wrong.exception, ConfigError)
    assert "known recipes: " in str(wrong.exception)
    both = runner.invoke(app, ["import", str(gguf), "--recipe", "int4-asym-g64", "--keep-quantization"])
    assert both.exit_code == 2


def test_the_same_file_again_is_there_already_wherever_it_lies(store: Store, gguf: Path, tmp_path: Path) -> None:
    runner.invoke(app, ["import", str(gguf), "--id", "mine"])
    moved = gguf.rename(tmp_path / "moved.gguf")
    result = runner.invoke(app, ["import", str(moved), "--id", "mine"])
    assert result.stdout.startswith("mine: is installed")
    result = runner.invoke(app, ["import", str(moved), "--id", "mine", "--force"])
    assert "installed" in result.stdout
    assert len(store.entries("mine")) == 2  # the manifest names the file


def test_another_model_is_not_replaced_unless_told_to(store: Store, gguf: Path, tmp_path: Path) -> None:
    runner.invoke(app, ["import", str(gguf), "--id", "mine"])
    other = tiny_model(tmp_path / "other.gguf", QWEN | {"general.name": "Other"})
    result = runner.invoke(app, ["import", str(other), "--id", "mine"])
    assert isinstance(result.exception, ConfigError)
    assert "mine is installed from tiny.gguf" in str(result.exception)
    assert runner.invoke(app, ["import", str(other), "--id", "mine", "--force"]).exit_code == 0
    assert store.choose(["mine"]).manifest.source.file == "other.gguf"


def test_a_damaged_import_names_the_command_that_mends_it(store: Store, gguf: Path) -> None:
    runner.invoke(app, ["import", str(gguf), "--id", "mine"])
    model = store.choose(["mine"])
    (model.directory / "openvino_model.bin").write_bytes(b"x")
    found = verify(model.manifest, model.directory)
    assert "run: appliance models import --force --id mine tiny.gguf" in found.problems[0]


@pytest.mark.parametrize(
    ("content", "said"), [(b"PK\x03\x04" + bytes(99), "not a GGUF file"), (b"GGUF" + b"\xff" * 99, "GGUF version")]
)
def test_what_is_no_model_leaves_nothing(content: bytes, said: str, store: Store, gguf: Path) -> None:
    gguf.write_bytes(content)
    result = runner.invoke(app, ["import", str(gguf)])
    assert isinstance(result.exception, ImportFailed)
    assert said in str(result.exception)
    assert not store.directory.exists()


def test_what_is_no_file_is_told(store: Store, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "no.gguf", tmp_path / "pipe"):
        result = runner.invoke(app, ["import", str(place)])
        assert isinstance(result.exception, ImportFailed)
        assert f"no such file: {place}" in str(result.exception)


def test_an_impossible_id_is_told_before_anything_else(store: Store, tmp_path: Path) -> None:
    result = runner.invoke(app, ["import", str(tmp_path / "no.gguf"), "--id", "../x"])
    assert isinstance(result.exception, ConfigError)


def test_without_the_extra_the_command_that_installs_it_is_told(
    store: Store, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = runner.invoke(app, ["import", str(gguf)])
    assert isinstance(result.exception, ConfigError)
    assert "needs gguf and nncf; run: pip install 'edge-chat-appliance[quantize]'" in str(result.exception)


def test_on_an_installed_host_the_extra_goes_into_a_release(
    store: Store, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(sys, "prefix", "/opt/appliance/releases/1.2.3")
    result = runner.invoke(app, ["import", str(gguf)])
    assert "; run: appliance install --system --extras systemd,quantize" in str(result.exception)
    monkeypatch.setattr(fetching, "find_spec", lambda name: None)
    with pytest.raises(SourceUnavailable, match="run: appliance install --system --extras systemd,quantize"):
        fetching.require_client()


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("Qwen2.5 0.5B Instruct", "qwen2.5-0.5b-instruct"),
        ("  ../../etc/passwd", "etc-passwd"),
        ("模型", ""),
        ("x" * 80, "x" * 64),
    ],
)
def test_an_id_is_made_of_a_name(name: str, made: str) -> None:
    assert id_of(name) == made


def described(gguf: Path, entry: CatalogModel, model_id: str | None, sha256: str = "1" * 64) -> CatalogModel:
    return describe_file(gguf, FACTS, sha256, Catalog({entry.id: entry}), model_id)


def test_a_file_that_the_catalog_knows_is_that_model(gguf: Path) -> None:
    entry = fake_model("known", FileSource(path="/x.gguf", sha256="1" * 64))
    assert described(gguf, entry, None).id == "known"
    assert described(gguf, entry, "mine").id == "mine"
    assert described(gguf, entry, None).title == "Fake"
    assert described(gguf, entry, None, "2" * 64).id == "tiny-qwen-0.1b-instruct"


def test_an_id_of_the_catalog_brings_its_defaults(gguf: Path) -> None:
    entry = replace(fake_model("known"), licence="MIT", languages=("de",))
    model = described(gguf, entry, "known")
    assert (model.generation, model.licence, model.languages) == (entry.generation, "MIT", ("de",))
    assert model.eos_tokens == ("<|im_end|>", "</s>")
    assert model.title == "Tiny Qwen 0.1B Instruct"
    assert described(gguf, entry, "other").licence == "unknown"


def test_a_file_that_changes_meanwhile_is_not_installed(gguf: Path, tmp_path: Path) -> None:
    model = fake_model("mine", FileSource(path=str(gguf)))

    def changing(gguf: Path, directory: Path, model: CatalogModel, progress: Progress) -> Converted:
        with gguf.open("ab") as content:
            content.write(b"more")
        return convert_fake(gguf, directory, model, progress)

    with pytest.raises(ImportFailed, match="changed while it was imported"):
        FileImporter(changing).build(model, model.source[0], tmp_path, Silent())


def test_another_digest_is_told(gguf: Path, tmp_path: Path) -> None:
    model = fake_model("mine", FileSource(path=str(gguf), sha256="1" * 64))
    with pytest.raises(DigestMismatch, match=f"expected {'1' * 64}"):
        FileImporter(convert_fake).build(model, model.source[0], tmp_path, Silent())
    assert digest_of(gguf, "x", Silent()) == hashlib.sha256(gguf.read_bytes()).hexdigest()


def test_room_is_looked_for_before_anything_is_written(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(DiskFull, match="disk full"):
        require_room(tmp_path, free)
    directory = tmp_path / "scratch" / "model"
    directory.mkdir(parents=True)
    calibrated = load_recipe("int4-asym-g64-awq")
    for constant, recipe in (
        ("F16_IN_MEMORY", load_recipe()),
        ("F16_CALIBRATING", calibrated),
        ("F16_CALIBRATING_GPTQ", msgspec.structs.replace(calibrated, gptq=True)),
    ):
        with monkeypatch.context() as scarce:
            scarce.setattr(quantizing, constant, 1e12)
            with pytest.raises(ImportFailed, match=r"takes about \d+ MB of memory, \d+ MB are free"):
                QuantizingConverter(recipe)(gguf, directory, fake_model("mine"), Silent())
    assert list(directory.parent.rglob("*")) == [directory]


def test_keeping_what_genai_does_not_read_is_refused(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantizing, "scan", lambda *_: FACTS)
    with pytest.raises(ImportFailed, match="GenAI does not read Q5_0 itself; import it without --keep-quantization"):
        convert_copy(gguf, tmp_path, fake_model("mine"), Silent())


@pytest.mark.parametrize("failing", ["dequantizing", "converting"])
def test_a_step_that_fails_is_told_and_leaves_nothing(
    failing: str, store: Store, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull, "QuantizingConverter", QuantizingConverter)
    if failing == "dequantizing":
        monkeypatch.setattr(quantizing, "STEPS", ("-c", _failing_step("dequantize")))
    result = runner.invoke(app, ["import", str(gguf)])  # one embedding is no model: GenAI refuses it in any case
    assert "the conversion failed: " in str(result.exception)
    assert [entry.name for entry in store.directory.iterdir()] == [".lock"]


def _failing_step(name: str) -> str:
    return (
        "import sys\nfrom appliance.models.steps import main\n"
        f"if sys.argv[1] == {name!r}: sys.exit('no such luck')\nsys.exit(main(sys.argv[1:]))"
    )


def test_a_full_disk_is_a_full_disk(store: Store, gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(FakeConverter):
        def __call__(self, gguf: Path, directory: Path, model: CatalogModel, progress: Progress) -> Converted:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pull, "QuantizingConverter", Full)
    assert isinstance(runner.invoke(app, ["import", str(gguf)]).exception, DiskFull)


def test_what_mends_a_model_makes_the_same_of_it(store: Store, gguf: Path) -> None:
    assert runner.invoke(app, ["import", str(gguf), "--id", "mine"]).exit_code == 0
    model = Store(store.directory).choose(["mine"])
    for recipe, option in (
        (DEFAULT_RECIPE, ""),
        ("compact", "--recipe compact "),
        ("own", "--recipe own.toml "),
        ("", "--keep-quantization "),
    ):
        manifest = msgspec.structs.replace(model.manifest, recipe=recipe)
        assert mending(manifest, model.directory) == f"appliance models import --force --id mine {option}{gguf.name}"

"""The catalog's form, and what its errors say."""

import re
from importlib import resources
from pathlib import Path

import pytest

import appliance
from appliance.config import ModelSettings
from appliance.errors import ConfigError
from appliance.models import catalog
from appliance.models.catalog import HubSource, WheelSource, load_catalog, read_catalog
from appliance.models.licences import licence_text

ENTRY = """
[[model]]
id = "{id}"
title = "Tiny"
licence = "MIT"
parameters = 10
context_tokens = 2048
generation = {{ temperature = 1, top_p = 0.9, top_k = 50, repetition_penalty = 1.0 }}
{more}

  [[model.source]]
  kind = "{kind}"
  {name} = "tiny-model"
  revision = "1.0"
  file = "tiny/model.gguf"
  sha256 = "{sha256}"
"""


def write(directory: Path, **values: str) -> Path:
    defaults = {"id": "tiny", "kind": "wheel", "name": "package", "sha256": "", "more": ""}
    file = directory / "catalog.toml"
    file.write_text(ENTRY.format(**{**defaults, **values}), "utf-8")
    return file


def test_the_built_in_catalog_has_the_preferred_models() -> None:
    models = load_catalog().models
    assert list(models) == [
        "qwen2.5-0.5b-instruct",
        "qwen2.5-1.5b-instruct",
        "qwen2.5-coder-0.5b-instruct",
        "qwen3-0.6b",
        "smollm2-135m-instruct",
        "smollm2-360m-instruct",
    ]
    assert set(ModelSettings().preferred) <= set(models)
    assert isinstance(models["qwen2.5-0.5b-instruct"].source[0], HubSource)
    source = models["smollm2-135m-instruct"].source[0]
    assert isinstance(source, WheelSource)
    assert len(source.sha256) == 64


def test_every_entry_of_the_built_in_catalog_says_all_that_people_choose_by() -> None:
    for model in load_catalog().models.values():
        assert licence_text(model.licence)
        assert model.languages
        assert model.eos_tokens
        assert model.generation.temperature > 0
        # F16 takes two bytes a weight: less is downloaded, and still less is installed and then served
        assert model.parameters / 2 < model.installed_bytes < model.download_bytes * 1.1 < model.parameters * 2
        assert model.memory_bytes > model.installed_bytes


def test_without_a_checkout_the_copy_in_the_package_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "lib" / "appliance"
    monkeypatch.setattr(appliance, "__file__", str(package / "__init__.py"))
    monkeypatch.setattr(resources, "files", lambda _: package)
    assert catalog.built_in_catalog() == package / "data" / "models" / "catalog.toml"


def test_extra_files_add_models_and_replace_those_of_the_same_id(tmp_path: Path) -> None:
    assert "tiny" in load_catalog([write(tmp_path)]).models
    replaced = load_catalog([write(tmp_path, id="smollm2-135m-instruct")])
    assert replaced.find("smollm2-135m-instruct").title == "Tiny"


def test_an_unknown_id_names_close_ones_and_all() -> None:
    with pytest.raises(
        ConfigError, match=re.escape("did you mean smollm2-135m-instruct or smollm2-360m-instruct? known")
    ):
        load_catalog().find("smollm-135m-instruct")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"more": "colour = 1"}, "model 'tiny': Object contains unknown field `colour`"),
        ({"id": "../tiny"}, "id: expected small letters"),
        ({"sha256": "abc"}, "source[0].sha256: expected 64 hexadecimal digits"),
        ({"kind": "ftp"}, "source[0].kind: Invalid value 'ftp'"),
        ({"name": "repository"}, "source[0]: Object contains unknown field `repository`"),
        ({"more": 'download_bytes = "much"'}, "download_bytes: Expected `int`, got `str`"),
    ],
)
def test_an_error_names_the_file_the_model_and_the_key(tmp_path: Path, values: dict[str, str], said: str) -> None:
    file = write(tmp_path, **values)
    with pytest.raises(ConfigError) as caught:
        read_catalog(file)
    assert str(caught.value).startswith(f"{file}: model ")
    assert said in str(caught.value)


@pytest.mark.parametrize("package", ["--index-url=http://x", "tiny model", "tiny[extra]", "./tiny"])
def test_a_package_can_be_nothing_but_a_name(tmp_path: Path, package: str) -> None:
    file = write(tmp_path)
    file.write_text(file.read_text("utf-8").replace("tiny-model", package), "utf-8")
    with pytest.raises(ConfigError, match="expected the name of a package"):
        read_catalog(file)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("repository", "../etc", "expected the name of a repository"),
        ("repository", "a/b/c", "expected the name of a repository"),
        ("file", "../../x.gguf", "expected a file's path in the repository"),
        ("file", "/etc/x.gguf", "expected a file's path in the repository"),
        ("file", "a/../x.gguf", "expected a file's path in the repository"),
        ("revision", "-x", "expected one version"),
    ],
)
def test_what_a_hub_source_names_can_leave_neither_hub_nor_store(
    tmp_path: Path, key: str, value: str, said: str
) -> None:
    source = {"repository": "tiny-model", "revision": "1.0", "file": "tiny/model.gguf"}
    file = write(tmp_path, kind="hub", name="repository")
    assert isinstance(read_catalog(file)["tiny"].source[0], HubSource)
    file.write_text(file.read_text("utf-8").replace(f'{key} = "{source[key]}"', f'{key} = "{value}"'), "utf-8")
    with pytest.raises(ConfigError, match=said):
        read_catalog(file)


@pytest.mark.parametrize(
    ("text", "said"),
    [("model = [", "is not valid TOML"), ("models = 1", "unknown key 'models'"), ("model = 1", "expected tables")],
)
def test_a_file_that_is_no_catalog_is_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "catalog.toml"
    file.write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=f"{re.escape(str(file))}.*{said}"):
        read_catalog(file)


def test_the_same_id_twice_in_a_file_is_an_error(tmp_path: Path) -> None:
    file = write(tmp_path)
    file.write_text(file.read_text("utf-8") * 2, "utf-8")
    with pytest.raises(ConfigError, match="'tiny' is there twice"):
        read_catalog(file)

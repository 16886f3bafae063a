"""`appliance models measure`: what is refused before anything is measured, and how a comparison's end is told."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from appliance.cli.models import app as models_app
from appliance.config import EngineSettings
from appliance.errors import ConfigError
from appliance.models.errors import NotInstalled
from appliance.models.manifest import MODEL_FILES
from appliance.models.measuring import measure as measuring
from appliance.models.measuring.artefacts import Artefact
from appliance.models.measuring.measure import NotMeasured, Plan, measure
from appliance.models.progress import Lines
from appliance.models.store import Store
from appliance.models.texts import read_samples

runner = CliRunner()
HELD_OUT = Path(__file__).parents[1] / "support" / "held_out.jsonl"

QUALITY = {
    "positions": 9, "mean_kl": 0.1, "mean_kl_error": 0.01, "p99_kl": 0.5, "top1_agreement_ratio": 0.8,
    "perplexity": 11.0, "reference_perplexity": 10.0,
}  # fmt: skip
REPORT = {"found": [{"quality": QUALITY, "parts": []}] * 2, "cut": 1}


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("APPLIANCE__MODELS__DIRECTORY", str(tmp_path / "store"))
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    return Store(tmp_path / "store")


@pytest.fixture
def irs(tmp_path: Path) -> list[Path]:
    """A reference and two artefacts, of which nothing can be loaded."""
    directories = [tmp_path / name for name in ("f16", "a", "b")]
    for directory in directories:
        directory.mkdir()
        for name in MODEL_FILES:
            (directory / name).write_text("<net/>", "utf-8")
    return directories


def plan(irs: list[Path]) -> Plan:
    reference, *artefacts = [Artefact(name=directory.name, source="ir", path=directory) for directory in irs]
    return Plan(
        reference=reference, artefacts=artefacts, samples=read_samples(HELD_OUT.read_bytes(), "x"), text_file="x",
        engine=EngineSettings(), speed=False,
    )  # fmt: skip


def scripted(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    monkeypatch.setattr(measuring, "CHILD", ("-c", script))


def invoke(*arguments: object) -> BaseException | None:
    return runner.invoke(models_app, ["measure", *map(str, arguments)]).exception


def test_without_a_reference_it_is_said_what_one_is(irs: list[Path]) -> None:
    error = invoke(irs[1])
    assert isinstance(error, ConfigError)
    assert "--reference FILE.gguf" in str(error)
    assert "dequantized" in str(error)


def test_what_is_not_there_is_told_before_anything_is_measured(irs: list[Path], tmp_path: Path) -> None:
    assert isinstance(invoke("missing", "--reference", irs[0], "--text", HELD_OUT), NotInstalled)
    (irs[0] / "openvino_model.bin").unlink()
    assert "has no openvino_model.bin" in str(invoke(irs[1], "--reference", irs[0], "--text", HELD_OUT))
    (irs[0] / "openvino_model.bin").write_bytes(b"")
    error = invoke(irs[1], "--reference", irs[0], "--text", tmp_path / "no.jsonl")
    assert "no.jsonl can't be read: No such file" in str(error)


def test_a_file_that_can_not_be_written_is_told_before_anything_is_measured(irs: list[Path], tmp_path: Path) -> None:
    for option in ("--json", "--html"):
        arguments = ["measure", str(irs[1]), "--reference", str(irs[0]), option, str(tmp_path / "no" / "file")]
        assert runner.invoke(models_app, arguments).exit_code == 2


def test_artefacts_are_compared_in_one_child_and_told_in_their_order(
    irs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = tmp_path / "order.json"
    scripted(
        monkeypatch,
        f"import sys, shutil; shutil.copy(sys.argv[1], {str(order)!r})\n"
        f'print(\'{{"done": 5, "total": 10, "doing": "comparing"}}\'); print({json.dumps(REPORT)!r})',
    )
    said: list[str] = []
    found = measure(plan(irs), tmp_path / "scratch", Lines(said.append))
    assert [(one.name, one.quality.mean_kl) for one in found.artefacts] == [("a", 0.1), ("b", 0.1)]
    assert found.notes == ["1 samples are longer than 2048 tokens, and were read so far only"]
    assert found.text.positions == 9
    assert said == ["a, b: loading", "a, b: comparing"]
    given = json.loads(order.read_bytes())
    assert [model["name"] for model in (given["reference"], *given["artefacts"])] == ["f16", "a", "b"]


def test_a_comparison_that_fails_is_one_line(irs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, """print('{"error": "a makes other tokens of sample 1 than f16"}'); raise SystemExit(1)""")
    with pytest.raises(NotMeasured, match=r"^a, b: the comparison failed: a makes other tokens of sample 1 than f16$"):
        measure(plan(irs), tmp_path / "scratch", Lines(lambda line: None))


def test_an_ir_that_is_none_is_one_line_and_nothing_is_left(irs: list[Path], tmp_path: Path) -> None:
    error = invoke(irs[1], "--reference", irs[0], "--text", HELD_OUT, "--no-speed")
    assert isinstance(error, NotMeasured)
    assert str(error).startswith("a: the comparison failed: ")
    assert "\n" not in str(error)
    assert list((tmp_path / "scratch").iterdir()) == []

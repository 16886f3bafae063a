"""The tuning file: written, read, left aside where it is of no use; and what of it counts for a model."""

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from appliance.cli.serve import FAKE_MODEL
from appliance.config import EngineSettings
from appliance.models.tuning.applying import HostTuning
from appliance.models.tuning.record import MOST_RECORDS, host_key, read_tuning, write_tuning
from tests.support.tuning import record, write_record

FAKE = EngineSettings(pipeline="fake")
DIGEST = FAKE_MODEL.digest


def read(file: Path) -> tuple[int, list[str]]:
    told: list[str] = []
    return len(read_tuning(file, told.append)), told


def test_a_record_comes_back_and_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    file = write_record(tmp_path, record(threads=1))
    other = record(host_key("fake", "1" * 64), threads=3)
    write_tuning(file, other, read_tuning(file, print))
    write_tuning(file, record(threads=2), read_tuning(file, print))
    assert read_tuning(file, print) == (other, record(threads=2))
    assert file.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [file]


def test_the_file_does_not_grow_for_ever(tmp_path: Path) -> None:
    file = tmp_path / "tuning.json"
    for number in range(MOST_RECORDS + 3):
        write_tuning(file, record(host_key("fake", f"{number:016}")), read_tuning(file, print))
    records = read_tuning(file, print)
    assert (len(records), records[0].key.model_digest) == (MOST_RECORDS, f"{3:016}")


def test_no_file_is_nothing_to_speak_of(tmp_path: Path) -> None:
    assert read(tmp_path / "tuning.json") == (0, [])


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda _: b"",
        lambda _: b"\xff\xfe",
        lambda _: b"[" * 100_000,
        lambda _: b"[]",
        lambda text: text + b" " * (1 << 20),
        lambda text: text.replace(b'"format": 1', b'"format": 2'),
        lambda text: text.replace(b'"threads": 1', b'"threads": -1'),
        lambda text: text.replace(b'"threads": 1', b'"threads": "many"'),
        lambda text: text.replace(b'"threads": 1', b'"kv_cache_tokens": 512'),
        lambda text: text.replace(b'"profile": "interactive"', b'"profile": "other"'),
    ],
    ids=[
        "cut", "empty", "binary", "nested", "list", "huge", "newer", "out of bounds", "wrong type", "not to be tuned",
        "unknown profile",
    ],
)  # fmt: skip
def test_a_file_of_no_use_is_left_aside_with_one_line(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    file = write_record(tmp_path, record(threads=1))
    file.write_bytes(damage(file.read_bytes()))
    count, told = read(file)
    assert count == 0
    (line,) = told
    assert line.startswith(f"{file} is of no use (")
    assert "\n" not in line
    assert line.endswith("left aside; run: appliance tune")


def test_a_directory_in_its_place_is_left_aside_too(tmp_path: Path) -> None:
    (tmp_path / "tuning.json").mkdir()
    assert read(tmp_path / "tuning.json") == (0, [f"{tmp_path}/tuning.json can't be read (Is a directory), left aside"])


def test_what_was_chosen_counts_but_for_what_the_operator_has_set() -> None:
    records = [record(threads=3, cpu_pinning="off")]
    assert HostTuning(records).changes(FAKE, DIGEST) == {"threads": 3, "cpu_pinning": "off"}
    tuning = HostTuning(records, explicit={"engine.threads": "file"})
    applied = tuning.applied(msgspec.structs.replace(FAKE, threads=1), DIGEST)
    assert (applied.threads, applied.cpu_pinning) == (1, "off")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("cpu_model", "Another CPU", "measured with another CPU (Another CPU); run: appliance tune"),
        ("openvino", "2020.1.0", "measured with another OpenVINO (2020.1.0); run: appliance tune"),
        ("openvino_genai", "2020.1.0.0", "measured with another OpenVINO GenAI (2020.1.0.0); run: appliance tune"),
        ("isa_cap", "SSE41", "measured with another ONEDNN_MAX_CPU_ISA (SSE41); run: appliance tune"),
        ("cores_usable", 4096, "measured with another number of usable CPUs (4096); run: appliance tune"),
        ("model_digest", "f" * 16, "measured for another model or engine.pipeline; run: appliance tune"),
        ("pipeline", "llm", "measured for another model or engine.pipeline; run: appliance tune"),
    ],
)
def test_what_was_measured_elsewhere_does_not_count_and_says_why(name: str, value: object, said: str) -> None:
    key = msgspec.structs.replace(host_key("fake", DIGEST), **{name: value})
    tuning = HostTuning([record(key, threads=3)])
    assert tuning.of(FAKE, DIGEST) is None
    assert tuning.applied(FAKE, DIGEST) == FAKE
    assert tuning.misfit(FAKE, DIGEST) == said


def test_without_records_there_is_nothing_to_say() -> None:
    assert HostTuning().misfit(FAKE, DIGEST) is None
    assert HostTuning().applied(FAKE, DIGEST) == FAKE


def test_the_file_is_json_for_people_too(tmp_path: Path) -> None:
    content = json.loads(write_record(tmp_path, record(threads=3)).read_text())
    assert content["tuned"][0]["settings"] == {"threads": 3}
    assert content["tuned"][0]["evidence"]["why"] == "faster"

"""Downloads that broke off: what is kept, and until when. No network."""

import os
import time
from pathlib import Path

from appliance.models.downloads import (
    KEPT_S,
    MOST_KEPT,
    discard_abandoned,
    discard_download,
    download_directory,
    holds_bytes,
    kept_bytes,
)

NOW_S = time.time()


def broken_download(store: Path, model_id: str, age_s: float = 0) -> Path:
    directory = download_directory(store, model_id)
    (directory / ".cache").mkdir(parents=True)
    part = directory / ".cache" / "x.incomplete"
    part.write_bytes(b"part")
    for path in (part, part.parent, directory):
        os.utime(path, (NOW_S - age_s, NOW_S - age_s))
    return directory


def test_a_download_is_kept_for_its_time_and_no_longer(tmp_path: Path) -> None:
    young = broken_download(tmp_path, "young", KEPT_S - 60)
    broken_download(tmp_path, "old", KEPT_S + 60)
    discard_abandoned(tmp_path, NOW_S)
    assert list(young.parent.iterdir()) == [young]
    assert kept_bytes(tmp_path, "young") == 4


def test_its_newest_byte_counts(tmp_path: Path) -> None:
    directory = broken_download(tmp_path, "old", KEPT_S + 60)
    os.utime(directory / ".cache" / "x.incomplete", (NOW_S, NOW_S))
    discard_abandoned(tmp_path, NOW_S)
    assert directory.exists()


def test_no_more_than_a_few_are_kept_the_newest_ones(tmp_path: Path) -> None:
    for number in range(MOST_KEPT + 2):
        broken_download(tmp_path, f"m{number}", 100 * number)
    discard_abandoned(tmp_path, NOW_S)
    assert sorted(path.name for path in (tmp_path / ".downloads").iterdir()) == [f"m{n}" for n in range(MOST_KEPT)]


def test_the_last_one_takes_the_place_of_all_with_it(tmp_path: Path) -> None:
    broken_download(tmp_path, "a")
    broken_download(tmp_path, "b")
    discard_download(tmp_path, "a")
    assert (tmp_path / ".downloads").exists()
    discard_download(tmp_path, "b")
    discard_download(tmp_path, "b")
    assert list(tmp_path.iterdir()) == []


def test_only_bytes_of_a_file_are_something_to_go_on_with(tmp_path: Path) -> None:
    directory = download_directory(tmp_path, "m")
    assert not holds_bytes(directory)
    (directory / ".cache").mkdir(parents=True)
    (directory / ".cache" / ".gitignore").write_text("*", "utf-8")
    (directory / ".cache" / "x.incomplete").touch()
    assert not holds_bytes(directory)
    (directory / ".cache" / "x.incomplete").write_bytes(b"part")
    assert holds_bytes(directory)
    (directory / ".cache" / "x.incomplete").unlink()
    (directory / "x.gguf").write_bytes(b"whole")
    assert holds_bytes(directory)


def test_a_store_without_any_is_left_alone(tmp_path: Path) -> None:
    discard_abandoned(tmp_path)
    assert kept_bytes(tmp_path, "none") == 0
    assert list(tmp_path.iterdir()) == []

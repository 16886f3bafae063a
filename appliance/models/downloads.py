"""Downloads that broke off and may go on: STORE/.downloads/ID/. Knows directories; downloads nothing.

What lies here is never part of a model. Whoever changes it holds the store's lock.
"""

import shutil
import time
from pathlib import Path

DOWNLOADS_NAME = ".downloads"
KEPT_S = 7 * 86_400.0  # since its last byte; then nobody seems to want it
MOST_KEPT = 2  # the newest


def download_directory(store: Path, model_id: str) -> Path:
    """Where the download of that model lies; need not exist."""
    return store / DOWNLOADS_NAME / model_id


def kept_bytes(store: Path, model_id: str) -> int:
    """Bytes that the broken download of that model takes."""
    return sum(file.stat().st_size for file in download_directory(store, model_id).rglob("*") if file.is_file())


def holds_bytes(download: Path) -> bool:
    """Whether there is something to go on with: the file, or a part of it, and not only what the client notes down."""
    notes = download / ".cache"
    return any(
        file.stat().st_size
        for file in download.rglob("*")
        if file.is_file() and (file.suffix == ".incomplete" or notes not in file.parents)
    )


def discard_download(store: Path, model_id: str) -> None:
    """Remove the download of that model, and the place of all where that was the last."""
    shutil.rmtree(download_directory(store, model_id), ignore_errors=True)
    _remove_if_empty(store)


def discard_abandoned(store: Path, now_s: float | None = None) -> None:
    """Remove downloads that nobody went on with, and all but the newest few. `now_s`: seconds since the epoch."""
    oldest_s = (time.time() if now_s is None else now_s) - KEPT_S
    place = store / DOWNLOADS_NAME
    if not place.is_dir():
        return
    newest_first = sorted(((_changed_s(entry), entry.name) for entry in place.iterdir()), reverse=True)
    for position, (changed_s, name) in enumerate(newest_first):
        if position >= MOST_KEPT or changed_s < oldest_s:
            shutil.rmtree(place / name, ignore_errors=True)
    _remove_if_empty(store)


def _changed_s(directory: Path) -> float:
    return max(path.lstat().st_mtime for path in (directory, *directory.rglob("*")))


def _remove_if_empty(store: Path) -> None:
    place = store / DOWNLOADS_NAME
    if place.is_dir() and not any(place.iterdir()):
        place.rmdir()

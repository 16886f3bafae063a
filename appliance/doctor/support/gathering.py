"""From sources to parts: each within its time and size, without secrets. Knows no source."""

import os
import threading
import time
import tomllib
from collections.abc import Iterable
from pathlib import Path

import msgspec

from appliance.config.paths import config_candidates
from appliance.doctor.support.archive import LeftOut, Part
from appliance.doctor.support.redacting import Redactor, secrets_in
from appliance.doctor.support.sources import Content, Missing, Source

SOURCE_S = 10.0
ALL_S = 60.0
PART_MAX_BYTES = 1 << 20
ALL_MAX_BYTES = 16 << 20  # before it is packed


def gather(
    sources: Iterable[Source],
    redactor: Redactor,
    *,
    source_s: float = SOURCE_S,
    all_s: float = ALL_S,
    all_bytes: int = ALL_MAX_BYTES,
) -> tuple[list[Part], list[LeftOut]]:
    """What could be had, without secrets, and what could not, and why."""
    end = time.monotonic() + all_s
    parts: list[Part] = []
    left_out: list[LeftOut] = []
    room = all_bytes
    for source in sources:
        try:
            content = _read(source, min(source_s, end - time.monotonic()))
        except Missing as error:
            left_out.append(LeftOut(name=source.name, what=source.what, reason=redactor.text(str(error))))
            continue
        part = _part(source, content, redactor)
        if len(part.content) > room:
            left_out.append(LeftOut(name=source.name, what=source.what, reason="the archive is full"))
            continue
        room -= len(part.content)
        parts.append(part)
    return parts, left_out


def known_secrets(config: Path | None) -> set[str]:
    """Those of the settings file, right or wrong as it is, and of this command's environment."""
    found = set(secrets_in(dict(os.environ)))
    for file in [config] if config is not None else config_candidates():
        try:
            found |= set(secrets_in(tomllib.loads(file.read_text("utf-8"))))
        except (OSError, ValueError, RecursionError):  # tomllib's and Unicode's are ValueErrors
            continue
    return found


def _read(source: Source, timeout_s: float) -> Content:
    """Raises Missing, also where the source takes longer than `timeout_s`: then it is left to its thread."""
    if timeout_s <= 0:
        raise Missing("no time was left for it")
    result: list[Content | Missing] = []

    def run() -> None:
        try:
            result.append(source.read())
        except Missing as error:
            result.append(error)
        except FileNotFoundError as error:
            result.append(Missing(f"there is no {error.filename}"))
        except OSError as error:
            result.append(Missing(f"{error.filename}: {error.strerror}; run it as root"))
        except Exception as error:  # one source that fails must not cost the others
            result.append(Missing(f"{type(error).__name__}: {error}"))

    thread = threading.Thread(target=run, name=source.name, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if not result:
        raise Missing(f"no answer within {timeout_s:.0f} s")
    if isinstance(result[0], Missing):
        raise result[0]
    return result[0]


def _part(source: Source, content: Content, redactor: Redactor) -> Part:
    before = redactor.count
    if isinstance(content.value, str):
        text = redactor.text(_parsed(source.name, content.value, redactor))
    else:
        text = redactor.text(_json(redactor.tree(content.value)))
    encoded = text.encode("utf-8", "replace")
    over = len(encoded) > PART_MAX_BYTES
    if over:  # of a log the end counts
        encoded = encoded[-PART_MAX_BYTES:]
    return Part(
        name=source.name,
        what=source.what,
        content=encoded,
        cut=content.cut or over,
        redactions=redactor.count - before,
    )


def _parsed(name: str, text: str, redactor: Redactor) -> str:
    """A file of JSON by the names in it; what is none as it is."""
    if not name.endswith(".json"):
        return text
    try:
        return _json(redactor.tree(msgspec.json.decode(text)))
    except (ValueError, RecursionError):
        return text


def _json(tree: object) -> str:
    return (msgspec.json.format(msgspec.json.encode(tree), indent=1) + b"\n").decode()

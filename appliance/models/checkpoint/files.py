"""Which files of a directory are the checkpoint. Knows their names; reads what they hold only for the digest.

Everything else that may lie there is left out, code of the model's own and pickled weights first of all: whoever
converts a checkpoint sees these files and no others.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from appliance.models.errors import ImportFailed
from appliance.models.progress import Progress

CONFIG_NAME = "config.json"
GENERATION_NAME = "generation_config.json"
TOKENIZER_NAME = "tokenizer.json"
TOKENIZER_CONFIG_NAME = "tokenizer_config.json"
TEMPLATE_NAME = "chat_template.jinja"
INDEX_NAME = "model.safetensors.index.json"
CARD_NAME = "README.md"
WEIGHTS_SUFFIX = ".safetensors"
MOST_SHARDS = 64
CHUNK_BYTES = 1 << 20

NAMES = (
    *(CONFIG_NAME, GENERATION_NAME, TOKENIZER_NAME, TOKENIZER_CONFIG_NAME, TEMPLATE_NAME, INDEX_NAME),
    *("added_tokens.json", "special_tokens_map.json", "vocab.json", "merges.txt"),
)
"""Besides the weights."""

_WEIGHTS = (r"model\.safetensors", r"model-\d{5}-of-\d{5}\.safetensors", r"\w[\w.-]*\.safetensors")


def wanted_names(names: Iterable[str]) -> list[str]:
    """The checkpoint's among a repository's files; none where it has no weights.

    Some repositories have the weights in another form too: transformers' own are taken before them.
    """
    there = sorted(names)
    for form in _WEIGHTS:
        weights = [name for name in there if re.fullmatch(form, name)]
        if weights:
            return sorted([*weights, *(name for name in there if name in NAMES)])
    return []


def checkpoint_files(directory: Path) -> Sequence[Path]:
    """The checkpoint's files by name. Raises ImportFailed where the directory can't be read."""
    try:
        there = {entry.name: entry for entry in directory.iterdir() if entry.is_file()}
    except OSError as error:
        raise ImportFailed(f"{directory} can't be read: {error.strerror}") from None
    wanted = [name for name in there if name in NAMES or name.endswith(WEIGHTS_SUFFIX)]
    return [there[name] for name in sorted(wanted)]


def checkpoint_state(files: Sequence[Path]) -> list[tuple[str, int, int, int]]:
    """What is another where one of the files was changed. Raises ImportFailed where one is gone."""
    try:
        states = [(file.name, file.stat()) for file in files]
    except OSError as error:
        raise ImportFailed(f"{error.filename} can't be read: {error.strerror}") from None
    return [(name, status.st_ino, status.st_size, status.st_mtime_ns) for name, status in states]


def checkpoint_digest(files: Sequence[Path], label: str, progress: Progress) -> str:
    """One sha256 for all: that of the lines that `sha256sum` prints for the files by name.

    Raises ImportFailed where one can't be read.
    """
    lines = hashlib.sha256()
    done = 0
    try:
        total = sum(file.stat().st_size for file in files)
        progress.stage(label, total or None)
        for file in files:
            digest = hashlib.sha256()
            with file.open("rb", buffering=0) as content:
                while chunk := content.read(CHUNK_BYTES):
                    digest.update(chunk)
                    done += len(chunk)
                    progress.advance(done, total)
            lines.update(f"{digest.hexdigest()}  {file.name}\n".encode())
    except OSError as error:
        raise ImportFailed(f"{error.filename or label} can't be read: {error.strerror}") from None
    return lines.hexdigest()


def link_files(files: Sequence[Path], directory: Path) -> None:
    """Make `directory` and have the files in it, by symbolic links. Raises OSError."""
    directory.mkdir()
    for file in files:
        (directory / file.name).symlink_to(file.resolve())

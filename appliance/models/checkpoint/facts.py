"""What a checkpoint's small files say of the model, and whether it is one for a chat. Reads no weights."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from appliance.models.checkpoint import files as names
from appliance.models.checkpoint.weights import CheckpointError, read_tensors
from appliance.models.facts import KNOWN_ENDS, Facts, ends_of, is_context, languages_of, licence_of, one_line, types_of
from appliance.types import GenerationDefaults

MOST_JSON_BYTES = 64 << 20  # a tokenizer with 262,144 tokens has 33 MB
MOST_CARD_BYTES = 64 << 10
NOTHING = (b"", b"null")

Ids = int | tuple[int, ...] | None


class _Config(Struct):
    """config.json, as far as it is needed."""

    model_type: Annotated[str, Meta(min_length=1, max_length=100)]
    max_position_embeddings: int | None = None
    quantization_config: msgspec.Raw = msgspec.Raw()
    eos_token_id: Ids = None


class _Generation(Struct):
    """generation_config.json; what it leaves out is what transformers takes then."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    eos_token_id: Ids = None


class _AddedToken(Struct):
    id: int
    content: str
    special: bool = False


class _Tokenizer(Struct):
    """tokenizer.json; its vocabulary is not needed."""

    added_tokens: tuple[_AddedToken, ...] = ()


class _TokenizerConfig(Struct):
    chat_template: msgspec.Raw = msgspec.Raw()


class _Index(Struct):
    weight_map: dict[str, str]


def read_facts(directory: Path) -> Facts:
    """The facts of the checkpoint in `directory`. Raises CheckpointError for what can't be exported, OSError."""
    there = names.checkpoint_files(directory)
    _require_files(directory, there)
    config = _read(directory / names.CONFIG_NAME, _Config)
    context = config.max_position_embeddings
    if not is_context(context):
        raise CheckpointError(f"{names.CONFIG_NAME}: max_position_embeddings is {context!r}, not a number of tokens")
    if bytes(config.quantization_config) not in NOTHING:
        raise CheckpointError("it is quantized already; take the model before somebody did that")
    tensors = read_tensors([file for file in there if file.suffix == names.WEIGHTS_SUFFIX])
    generation = _read_if_there(directory / names.GENERATION_NAME, _Generation) or _Generation()
    card = _front_matter(directory / names.CARD_NAME)
    return Facts(
        architecture=one_line(config.model_type),
        licence=licence_of(next(iter(card.get("license", ())), "")),
        languages=languages_of(card.get("language", ())),
        context_tokens=context,
        parameters=sum(tensor.elements for tensor in tensors.values()),
        f16_bytes=sum(2 * tensor.elements for tensor in tensors.values()),
        matrix_types=types_of((one.dtype, one.elements) for one in tensors.values() if len(one.shape) > 1),
        eos_tokens=_eos_tokens(directory, (config.eos_token_id, generation.eos_token_id)),
        generation=_defaults(generation),
    )


def _require_files(directory: Path, there: Sequence[Path]) -> None:
    """Raises CheckpointError where something is missing, with how to get it."""
    found = {file.name for file in there}
    weights = sorted(name for name in found if name.endswith(names.WEIGHTS_SUFFIX))
    if not weights:
        pickled = any(directory.glob("*.bin")) or any(directory.glob("*.pt*"))
        instead = ": pickled weights can run code, so they are not read" if pickled else ""
        raise CheckpointError(f"it has no *{names.WEIGHTS_SUFFIX}{instead}")
    if len(weights) > names.MOST_SHARDS:
        raise CheckpointError(f"it has {len(weights)} files of weights, at most {names.MOST_SHARDS} are read")
    for name in (names.CONFIG_NAME, names.TOKENIZER_NAME, names.TOKENIZER_CONFIG_NAME):
        if name not in found:
            raise CheckpointError(f"it has no {name}; take all files of the model's repository")
    if names.INDEX_NAME in found:
        parts = set(_read(directory / names.INDEX_NAME, _Index).weight_map.values())
        missing = sorted(one_line(part) for part in parts - found)
        if missing:
            raise CheckpointError(f"it has no {missing[0]}, which {names.INDEX_NAME} names")
    template = _read(directory / names.TOKENIZER_CONFIG_NAME, _TokenizerConfig).chat_template
    if names.TEMPLATE_NAME not in found and bytes(template) in (*NOTHING, b'""'):
        raise CheckpointError("it has no chat template, so it is no model for a chat")


def _read(file: Path, type: type[Any]) -> Any:
    if file.stat().st_size > MOST_JSON_BYTES:
        raise CheckpointError(f"{file.name} has more than {MOST_JSON_BYTES:,} bytes")
    try:
        return msgspec.json.decode(file.read_bytes(), type=type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{file.name}: {one_line(str(error))}") from None


def _read_if_there(file: Path, type: type[Any]) -> Any:
    return _read(file, type) if file.is_file() else None


def _eos_tokens(directory: Path, named: Iterable[Ids]) -> tuple[str, ...]:
    """The tokens that the files name as ends, and special ones that are known as such."""
    tokens: tuple[_AddedToken, ...] = _read(directory / names.TOKENIZER_NAME, _Tokenizer).added_tokens
    ids = {number for some in named for number in ((some,) if isinstance(some, int) else some or ())}
    ends = [token.content for token in tokens if token.id in ids or (token.special and token.content in KNOWN_ENDS)]
    return ends_of(ends)


def _defaults(given: _Generation) -> GenerationDefaults | None:
    """The makers' defaults; None where they give none, or ones that this appliance does not take."""
    if given.temperature is None and given.top_p is None:
        return None
    values = {
        "temperature": 1.0 if given.temperature is None else given.temperature,
        "top_p": 1.0 if given.top_p is None else given.top_p,
        "top_k": 50 if given.top_k is None else given.top_k,
        "repetition_penalty": 1.0 if given.repetition_penalty is None else given.repetition_penalty,
    }
    try:
        return msgspec.convert(values, GenerationDefaults)
    except msgspec.ValidationError:
        return None


def _front_matter(card: Path) -> Mapping[str, list[str]]:
    """`key: value`, and `key:` with lines of `- value`, between the dashes that a model card begins with."""
    try:
        with card.open("rb") as content:
            lines = content.read(MOST_CARD_BYTES).decode("utf-8", "replace").splitlines()
    except OSError:
        return {}
    values: dict[str, list[str]] = {}
    key = ""
    for line in lines[1:] if lines and lines[0].strip() == "---" else ():
        text = line.strip()
        if text == "---":
            return values
        if text.startswith("- ") and key:
            values[key].append(text.removeprefix("- ").strip("\"' "))
        elif line[:1].strip() and ":" in line:
            key, _, value = (part.strip("\"' ") for part in line.partition(":"))
            values[key] = [value] if value else []
    return {}

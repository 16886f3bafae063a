"""What a header says of the model, in this project's words, and whether GenAI can build it. Reads no weights."""

from pathlib import Path

from appliance.models.facts import KNOWN_ENDS, Facts, ends_of, is_context, languages_of, licence_of, one_line, types_of
from appliance.models.gguf.ggml import NOT_DEQUANTIZED
from appliance.models.gguf.header import Header, HeaderError, read_header, read_numbers, read_texts

ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""What GenAI 2026.4 builds from a GGUF."""

EXPORT_ROUTE = (
    "import the directory of its safetensors instead, on a builder: pip install 'edge-chat-appliance[export]', then "
    "appliance models import DIRECTORY"
)
CONTROL = 3  # of tokenizer.ggml.token_type


def read_facts(file: Path) -> Facts:
    """The facts of `file`. Raises HeaderError for what can't be read or built, OSError."""
    header = read_header(file)
    architecture = _architecture(header)
    context = header.metadata.get(f"{architecture}.context_length")
    if not is_context(context):
        raise HeaderError(f"{architecture}.context_length is {context!r}, not a number of tokens")
    return Facts(
        architecture=architecture,
        name=one_line(header.metadata.get("general.name")),
        licence=licence_of(header.metadata.get("general.license")),
        languages=languages_of(read_texts(file, header.metadata.get("general.languages"))),
        context_tokens=context,
        parameters=sum(tensor.elements for tensor in header.tensors),
        f16_bytes=sum(tensor.elements * (4 if len(tensor.shape) == 1 else 2) for tensor in header.tensors),
        matrix_types=_matrix_types(header),
        eos_tokens=_eos_tokens(file, header),
    )


def _architecture(header: Header) -> str:
    """Raises HeaderError for what GenAI would refuse, or would build wrongly."""
    metadata = header.metadata
    architecture = one_line(metadata.get("general.architecture"))
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise HeaderError(
            f"architecture {architecture!r} is none that GenAI builds from a GGUF ({known}); {EXPORT_ROUTE}"
        )
    if metadata.get("tokenizer.ggml.model") != "gpt2":
        tokenizer = one_line(metadata.get("tokenizer.ggml.model"))
        raise HeaderError(f"tokenizer {tokenizer!r} is none that GenAI builds from a GGUF (gpt2); {EXPORT_ROUTE}")
    scaling = metadata.get(f"{architecture}.rope.scaling.type", "none")
    # GenAI takes the base frequency alone: such a model would answer, and worse with each token.
    if scaling != "none" or any(tensor.name.startswith("rope_") for tensor in header.tensors):
        raise HeaderError(f"its positions are scaled (RoPE), which GenAI leaves out for a GGUF; {EXPORT_ROUTE}")
    if metadata.get("split.count", 1) not in (0, 1):
        raise HeaderError("it is one part of a model in several files; join them with llama-gguf-split --merge")
    if not metadata.get("tokenizer.chat_template"):
        raise HeaderError("it has no chat template, so it is no model for a chat")
    return architecture


def _matrix_types(header: Header) -> tuple[str, ...]:
    """Raises HeaderError for a type that nobody can read."""
    for tensor in header.tensors:
        if tensor.ggml.name in NOT_DEQUANTIZED:
            raise HeaderError(f"tensor {tensor.name!r} is {tensor.ggml.name}, which can't be dequantized")
    return types_of((tensor.ggml.name, tensor.elements) for tensor in header.tensors if len(tensor.shape) > 1)


def _eos_tokens(file: Path, header: Header) -> tuple[str, ...]:
    """The tokens that the file names as ends, and those of its control tokens that are known as such."""
    metadata = header.metadata
    tokens = read_texts(file, metadata.get("tokenizer.ggml.tokens"))
    types = read_numbers(file, metadata.get("tokenizer.ggml.token_type"))
    named = [metadata.get(f"tokenizer.ggml.{end}_token_id") for end in ("eos", "eot", "eom")]
    ends = [tokens[number] for number in named if isinstance(number, int) and 0 <= number < len(tokens)]
    ends += [token for token, kind in zip(tokens, types, strict=False) if kind == CONTROL and token in KNOWN_ENDS]
    return ends_of(ends)

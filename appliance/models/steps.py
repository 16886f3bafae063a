"""`python -m appliance.models.steps STEP …`: one step of an import, in a process of its own.

The last line on standard output is one JSON object: what the step found out, or error. Lines before it that begin
with {"done" tell how far it is. Memory that a step took is free again when it ends.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from appliance.engine.errand import limit, run_errand

if TYPE_CHECKING:
    from appliance.models.tokenizer_check import Reference, Vocabulary

GB = 1 << 30
SCAN_BYTES = GB  # besides the file itself, which is mapped; 40 MB are used
SCAN_CPU_S = 60  # 1 s for 150,000 tokens
BASE_BYTES = 2 * GB  # libraries, and a stack for each core of a large builder
EXPORT_BYTES = 6 * GB  # torch, and the graph that it traces
MOST_F16_COPIES = 3  # GenAI takes two and the mapped file
MOST_CALIBRATING_COPIES = 4  # of which the F16 model that runs in F32 takes two
MOST_GPTQ_COPIES = 6  # it keeps the F32 weights in memory: 5.1 seen

# What a step needs is imported in it: reading a header takes no numpy, and dequantizing no OpenVINO.


def scan(file: Path) -> dict[str, object]:
    """Facts, from a GGUF's header or a checkpoint's small files."""
    from appliance.models.checkpoint import facts as checkpoint
    from appliance.models.gguf import facts as gguf

    limit(address_bytes=SCAN_BYTES + file.stat().st_size, cpu_s=SCAN_CPU_S)
    read_facts = checkpoint.read_facts if file.is_dir() else gguf.read_facts
    facts: dict[str, object] = msgspec.to_builtins(read_facts(file))
    return facts


def dequantize(file: Path, target: Path) -> dict[str, object]:
    """`target` with F16 matrices; tells the number of weights, and of tensors that were tied."""
    from appliance.models.gguf.header import read_header
    from appliance.models.gguf.rewriting import output_bytes, rewrite
    from appliance.models.gguf.tying import tie

    limit(data_bytes=BASE_BYTES)
    stored = read_header(file)
    header = tie(file, stored)
    total = sum(output_bytes(tensor) for tensor in header.tensors)
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        print(json.dumps({"done": done, "total": total}), flush=True)

    parameters = rewrite(file, header, target, advance)
    return {"parameters": parameters, "tied": len(stored.tensors) - len(header.tensors)}


def build(gguf: Path, directory: Path, f16_bytes: int) -> dict[str, object]:
    """IR and tokenizers of a GGUF that GenAI reads."""
    from appliance.engine.genai.importing import convert_gguf

    limit(data_bytes=BASE_BYTES + MOST_F16_COPIES * f16_bytes)
    convert_gguf(gguf, directory)
    return {}


def export(checkpoint: Path, directory: Path, f16_bytes: int) -> dict[str, object]:
    """IR and tokenizers of a checkpoint."""
    limit(data_bytes=EXPORT_BYTES + MOST_F16_COPIES * f16_bytes)
    from appliance.models.exporting import export as export_checkpoint

    export_checkpoint(checkpoint, directory)
    return {}


def compress(directory: Path, recipe: str, f16_bytes: int) -> dict[str, object]:
    """The IR's weights by a recipe, which is given as JSON."""
    from appliance.models.recipes import Recipe

    wanted = msgspec.json.decode(recipe, type=Recipe)
    copies = MOST_F16_COPIES
    if wanted.methods:
        copies = MOST_GPTQ_COPIES if wanted.gptq else MOST_CALIBRATING_COPIES
    limit(data_bytes=BASE_BYTES + copies * f16_bytes)
    from appliance.models.compression import compress as compress_weights

    def tell(doing: str, done: int, total: int) -> None:
        print(json.dumps({"done": done, "total": total, "doing": doing}), flush=True)

    compress_weights(directory, wanted, tell)
    return {}


def prove(directory: Path, source: Path, eos_tokens: list[str]) -> dict[str, object]:
    """What the IR generates and weighs; RuntimeError where its tokenizer is not that of `source`."""
    from appliance.engine.conversion import describe_weights
    from appliance.engine.genai.importing import open_tokenizer, probe
    from appliance.models.tokenizer_check import difference_of, problem_of

    encode, decode = open_tokenizer(directory)
    if source.is_dir():
        problem = difference_of(_reference(source), encode, decode)
    else:
        problem = problem_of(_vocabulary(source), encode, decode)
    if problem:
        raise RuntimeError(f"the tokenizer that was made is not the model's own: {problem}")
    report = probe(directory, eos_tokens)
    report["weights"] = describe_weights((directory / "openvino_model.xml").read_text("utf-8"))
    return report


def _vocabulary(gguf: Path) -> "Vocabulary":
    from appliance.models.gguf.header import read_header, read_numbers, read_texts
    from appliance.models.tokenizer_check import Vocabulary

    metadata = read_header(gguf).metadata
    named = [metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "eot", "padding")]
    return Vocabulary(
        read_texts(gguf, metadata.get("tokenizer.ggml.tokens")),
        read_numbers(gguf, metadata.get("tokenizer.ggml.token_type")),
        [number for number in named if isinstance(number, int)],
    )


def _reference(checkpoint: Path) -> "Reference":
    from tokenizers import Tokenizer

    from appliance.models.checkpoint.files import TOKENIZER_NAME
    from appliance.models.tokenizer_check import Reference

    tokenizer = Tokenizer.from_file(str(checkpoint / TOKENIZER_NAME))
    special = {number: token.content for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    return Reference(
        lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
        lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
        special,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 and the report, or 1 and the reason."""
    return run_errand(_chosen(arguments))


def _chosen(arguments: Sequence[str] | None) -> Callable[[], dict[str, object]]:
    parser = argparse.ArgumentParser(description="One step of a model's import.")
    steps = parser.add_subparsers(dest="step", required=True)
    wanted = {
        "scan": (("file", Path),),
        "dequantize": (("file", Path), ("target", Path)),
        "build": (("gguf", Path), ("directory", Path), ("f16_bytes", int)),
        "export": (("checkpoint", Path), ("directory", Path), ("f16_bytes", int)),
        "compress": (("directory", Path), ("recipe", str), ("f16_bytes", int)),
        "prove": (("directory", Path), ("source", Path)),
    }
    for step, names in wanted.items():
        below = steps.add_parser(step)
        for name, kind in names:
            below.add_argument(name, type=kind)
        if step == "prove":
            below.add_argument("eos_tokens", nargs="*")
    given = vars(parser.parse_args(arguments))
    errand: Callable[..., dict[str, object]] = globals()[given.pop("step")]
    return lambda: errand(**given)


if __name__ == "__main__":
    sys.exit(main())

"""GGUF to IR, and the proof that an IR answers. Used by the conversion's own process only."""

from collections.abc import Callable
from pathlib import Path

import openvino as ov
import openvino_genai as ov_genai
import openvino_tokenizers  # noqa: F401 # teaches ov.Core the operations of tokenizers
from openvino import opset13

NO_TRUNCATION = 2**31 - 1
NO_DEVICE = "NONE"  # the files are written before anything is compiled: for the CPU that takes as much memory again


def convert_gguf(gguf: Path, directory: Path) -> None:
    """Write the OpenVINO IR and both tokenizers of `gguf` into `directory`, quantized as the file is.

    GenAI writes beside the file it reads, so the file is linked into `directory` for as long as that takes.
    Raises RuntimeError with GenAI's own words; on a full disk those are "basic_ios::clear: iostream error".
    """
    link = directory / gguf.name
    link.symlink_to(gguf.resolve())
    try:
        ov_genai.LLMPipeline(link, NO_DEVICE, enable_save_ov_model=True)
    except RuntimeError as error:
        if f'"{NO_DEVICE}" name is not registered' not in str(error):
            raise
    finally:
        link.unlink()
    core = ov.Core()  # in this frame: its extensions must outlive every node of a model that it reads
    _lift_truncation(core, directory)


def _lift_truncation(core: ov.Core, directory: Path) -> None:
    """Have the tokenizer tell a prompt's true length: GenAI builds it to cut at 8,192 tokens without a word.

    The cut is a Minimum of the length and a constant, in openvino_tokenizer.xml; the constant is raised.
    """
    file = directory / "openvino_tokenizer.xml"
    model = core.read_model(file)
    limits = [
        source
        for op in model.get_ordered_ops()
        if op.get_type_name() == "Minimum"
        for source in op.inputs()
        if source.get_source_output().get_node().get_type_name() == "Constant"
    ]
    if len(limits) != 1:
        raise RuntimeError(f"{file.name}: expected one Minimum that cuts long prompts, found {len(limits)}")
    constant = limits[0].get_source_output().get_node()
    lifted = opset13.constant(NO_TRUNCATION, constant.get_element_type())
    limits[0].replace_source_output(lifted.output(0))
    new = directory / "lifted.xml"
    ov.save_model(model, new, compress_to_fp16=False)
    for suffix in (".xml", ".bin"):
        new.with_suffix(suffix).replace(file.with_suffix(suffix))


def probe(directory: Path, eos_tokens: list[str], tokens: int = 8) -> dict[str, object]:
    """Load the IR in `directory` and generate, as proof that the files work together.

    Returns eos_token_ids (those of `eos_tokens` that the vocabulary has, and the tokenizer's own),
    chat_template (bool) and text (the greedy answer). Raises RuntimeError with GenAI's own words.
    """
    pipeline = ov_genai.LLMPipeline(directory, "CPU")
    tokenizer = pipeline.get_tokenizer()
    vocabulary = tokenizer.get_vocab()
    ids = {vocabulary[token.encode()] for token in eos_tokens if token.encode() in vocabulary}
    own = tokenizer.get_eos_token_id()
    if own >= 0:
        ids.add(own)
    config = ov_genai.GenerationConfig()
    config.max_new_tokens = tokens
    answer = str(pipeline.generate("Hello", config))
    return {"eos_token_ids": sorted(ids), "chat_template": bool(tokenizer.chat_template), "text": answer}


def open_tokenizer(directory: Path) -> tuple[Callable[[str], list[int]], Callable[[list[int]], str]]:
    """encode and decode of the tokenizers in `directory`; neither adds anything."""
    tokenizer = ov_genai.Tokenizer(directory)

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).input_ids.data[0].tolist()
        return ids

    def decode(ids: list[int]) -> str:
        return str(tokenizer.decode(ids))

    return encode, decode

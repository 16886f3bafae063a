"""The only importer of openvino_genai: its two pipelines, and what importing a model needs of it."""

from pathlib import Path

import openvino_genai as ov_genai


def convert_gguf(gguf: Path, directory: Path) -> None:
    """Write the OpenVINO IR and both tokenizers of `gguf` into `directory`, quantized as the file is.

    GenAI writes beside the file it reads, so the file is linked into `directory` for as long as that takes.
    Raises RuntimeError with GenAI's own words; on a full disk those are "basic_ios::clear: iostream error".
    """
    link = directory / gguf.name
    link.symlink_to(gguf.resolve())
    try:
        ov_genai.LLMPipeline(link, "CPU", enable_save_ov_model=True)
    finally:
        link.unlink()


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

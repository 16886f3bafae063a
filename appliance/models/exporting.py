"""A checkpoint to IR, by optimum-intel. Runs in a process of its own; the only module that imports it.

The weights stay F16: the recipe's quantization is the same step for whatever an IR was made of.
"""

import os
import shutil
import sys
from pathlib import Path

from appliance.models.manifest import MODEL_FILES

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
TASK = "text-generation-with-past"


def export(checkpoint: Path, directory: Path) -> None:
    """Write IR and tokenizers of `checkpoint`, which holds nothing but its files, into `directory`.

    Raises whatever optimum-intel, transformers and torch do; RuntimeError where they left something out.
    """
    work = directory / "export"
    os.environ.update(OFFLINE, HF_HOME=str(work))
    # optimum-intel has it installed, models of text need none, and one that was built for another torch, as beside a
    # torch without CUDA, breaks the import of transformers.
    sys.modules["torchvision"] = None  # type: ignore[assignment]
    from optimum.exporters.openvino import main_export
    from optimum.intel import OVConfig

    main_export(
        str(checkpoint),
        output=work,
        task=TASK,
        library_name="transformers",
        framework="pt",
        ov_config=OVConfig(dtype="fp16"),  # else it makes INT8 of large models
        convert_tokenizer=True,
        trust_remote_code=False,
        local_files_only=True,
        cache_dir=str(work),
        model_loading_kwargs={"use_safetensors": True},
    )
    missing = [name for name in MODEL_FILES if not (work / name).is_file()]
    if missing:
        raise RuntimeError(f"optimum-intel made no {missing[0]}")
    for name in MODEL_FILES:
        (work / name).rename(directory / name)
    shutil.rmtree(work)

"""Settings and sampling in GenAI's own terms. Knows the facts about its defaults that bite."""

import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import openvino_genai as ov_genai
import psutil

from appliance.engine.ipc import Load
from appliance.engine.weights import int4_group_sizes
from appliance.types import FinishReason, Sampling

BLOCK_TOKENS = 32  # of a KV block on CPU
DYNAMIC_GROUP_SIZE = 64  # a fifth less TTFT than OpenVINO's 32, for a thousandth of KL divergence: benchmarks/README.md

native = ov_genai.py_openvino_genai
FINISH: dict[Any, FinishReason] = {
    native.GenerationFinishReason.STOP: "stop",
    native.GenerationFinishReason.LENGTH: "length",
    native.GenerationFinishReason.TOOL_CALL: "tool_calls",
}


def versions() -> dict[str, str]:
    """Versions of what answers."""
    return {name: version(name) for name in ("openvino", "openvino-genai")}


def properties(load: Load) -> dict[str, Any]:
    """Properties of the CPU device."""
    # cgroup quotas and CPU affinity are not seen when OpenVINO sizes its thread pool, so it is told.
    cores = psutil.cpu_count(logical=False) or 1
    threads = load.threads or min(cores, len(os.sched_getaffinity(0)))
    properties: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads}
    if load.precision != "auto":
        properties["INFERENCE_PRECISION_HINT"] = load.precision
    group_size = dynamic_group_size(load)
    if group_size is not None:
        properties["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = group_size
    if load.kv_cache_precision != "auto":
        properties["KV_CACHE_PRECISION"] = load.kv_cache_precision
    if load.cpu_pinning != "auto":
        properties["ENABLE_CPU_PINNING"] = load.cpu_pinning == "on"
    return properties


def dynamic_group_size(load: Load) -> int | None:
    """Activations that share one scale when they are made INT8 for a product; 0 for none, None for OpenVINO's choice.

    Groups that do not divide those of the weights turn it off, which makes a prompt take twice as long.
    """
    if load.dynamic_quantization == "auto":
        sizes = int4_group_sizes(Path(load.directory))
        return DYNAMIC_GROUP_SIZE if sizes and all(size % DYNAMIC_GROUP_SIZE == 0 for size in sizes) else None
    return 0 if load.dynamic_quantization == "off" else int(load.dynamic_quantization)


def scheduler_config(load: Load) -> ov_genai.SchedulerConfig:
    """A KV cache of fixed size, prompts cut into steps."""
    scheduler = ov_genai.SchedulerConfig()
    # Drafts are written behind a request's last token, even where it may have no more: a block each, or a request that
    # fills the cache ends as IGNORED.
    spare_blocks = load.max_running_requests if load.prompt_lookup else 0
    scheduler.num_kv_blocks = load.kv_cache_tokens // BLOCK_TOKENS + spare_blocks
    scheduler.cache_size = 0  # whole GB only; both zero would mean growth without bound
    scheduler.dynamic_split_fuse = True
    scheduler.max_num_batched_tokens = load.max_num_batched_tokens
    scheduler.enable_prefix_caching = True
    return scheduler


def generation_config(load: Load, sampling: Sampling) -> ov_genai.GenerationConfig:
    """One request's sampling, with everything set whose default would surprise."""
    config = ov_genai.GenerationConfig()
    config.max_new_tokens = sampling.max_tokens  # unlimited by default
    config.rng_seed = sampling.seed  # 0, the same sample every time, by default
    config.repetition_penalty = sampling.repetition_penalty
    if load.eos_token_ids:
        config.eos_token_id = load.eos_token_ids[0]
        config.stop_token_ids = set(load.eos_token_ids)
    if sampling.temperature > 0:
        config.do_sample = True
        config.temperature = sampling.temperature
        config.top_p = sampling.top_p
        if sampling.top_k:
            config.top_k = sampling.top_k
    return config


def reason(error: RuntimeError) -> str:
    """GenAI's message without its source path."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"

"""What must be there before anything is measured: model, llama.cpp, its model; and how it is told in the results."""

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec
import psutil
from msgspec import Struct

from appliance.config import Settings
from appliance.models.store import Installed, Store
from benchmarks.cells import NGRAM, Q4_0, Q4_K_M
from benchmarks.contenders import ROOT, Appliance, Contender, Llama
from benchmarks.llama_build import LlamaCpp, cache_directory, llama_cpp, quantized
from benchmarks.llama_options import BEST, BEST_NGRAM
from benchmarks.llama_server import Variant, llama_server
from benchmarks.measuring import Openers
from benchmarks.models import MODEL_ID, digest, gguf_file, imported
from benchmarks.results import LlamaMethod, Method


class Plan(Struct, frozen=True, kw_only=True):
    """What is to be run."""

    names: list[str]
    """Of the parts, in order."""
    rounds: int
    """Of each cell; 0: its own number."""
    with_llama: bool
    store: Path | None
    """With an import of the model; None: one is made in the cache."""
    model: str | None
    """Its id in `store`."""
    output: Path | None
    """The directory for the files; None: none are written."""
    seed: int


class Prepared(Struct, frozen=True, kw_only=True):
    """What is there before anything is measured."""

    gguf: Path
    gguf_digest: str
    store: Path
    installed: Installed
    build: LlamaCpp | None
    q4_0: Path | None
    """The model for `build`, made of `gguf`."""
    logs: Path

    def appliance(self, changes: Mapping[str, object] | None = None) -> Appliance:
        """What a daemon is started with; `changes`: settings by `section.key`."""
        return Appliance(self.store, self.installed.id, self.logs, changes)

    def variants(self) -> list[Variant]:
        """How llama.cpp's server is run; none where it is left out."""
        if self.q4_0 is None:
            return []
        return [
            Variant(name=Q4_0, model=self.q4_0, options=BEST),
            Variant(name=Q4_K_M, model=self.gguf, options=BEST),
            Variant(name=NGRAM, model=self.q4_0, options=BEST_NGRAM),
        ]


def say(line: str) -> None:
    """Progress, for people; the tables go to standard output."""
    print(f"{datetime.now(UTC):%H:%M:%S}  {line}", file=sys.stderr, flush=True)


async def prepare(plan: Plan) -> Prepared:
    """Make what is not there yet: minutes, and the network, the first time. Raises BenchmarkError, ConfigError."""
    gguf = gguf_file()
    gguf_digest = await asyncio.to_thread(digest, gguf)
    if plan.store is not None:
        store, installed = plan.store, Store(plan.store).choose([plan.model or MODEL_ID])
    else:
        store, installed = await imported(gguf, gguf_digest, say)
    if installed.manifest.source.sha256 != gguf_digest:
        say(f"NOTE: model {installed.id} in {store} was not made of {gguf}: the contenders' weights differ")
    logs = cache_directory() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    build = await asyncio.to_thread(llama_cpp, say) if plan.with_llama else None
    q4_0 = await asyncio.to_thread(quantized, build, gguf, gguf_digest, "Q4_0", say) if build is not None else None
    return Prepared(
        gguf=gguf, gguf_digest=gguf_digest, store=store, installed=installed, build=build, q4_0=q4_0, logs=logs
    )


def llama_openers(prepared: Prepared, variants: list[Variant], threads: int) -> Openers:
    """For each variant, a server with as many slots as it will have clients."""
    build = prepared.build
    if build is None:
        return {}

    @contextlib.asynccontextmanager
    async def open_llama(variant: Variant, clients: int) -> AsyncIterator[Contender]:
        log = prepared.logs / f"{re.sub(r'[^a-z0-9]+', '-', variant.name.lower())}.log"
        async with llama_server(build, variant, clients, threads, log) as child:
            yield Llama(variant.name, child)

    return {variant.name: partial(open_llama, variant) for variant in variants}


def threads(settings: Settings) -> int:
    """Inference threads of all contenders: those that the appliance takes."""
    cores = psutil.cpu_count(logical=False) or 1
    return settings.engine.threads or min(cores, len(os.sched_getaffinity(0)))


def method(plan: Plan, prepared: Prepared, appliance: Appliance) -> Method:
    """How this run compares, for its results."""
    manifest, build, settings = prepared.installed.manifest, prepared.build, appliance.settings
    return Method(
        gguf=prepared.gguf.name,
        gguf_sha256=prepared.gguf_digest,
        model_digest=manifest.digest,
        quantization=manifest.quantization,
        threads=threads(settings),
        isa_cap=appliance.isa_cap,
        engine=msgspec.to_builtins(settings.engine),
        llama=LlamaMethod(
            package=build.package,
            flags=list(build.flags),
            compiler=build.compiler,
            options={variant.name: list(variant.options) for variant in prepared.variants()},
        )
        if build is not None
        else None,
        seed=plan.seed,
        commit=_commit(),
    )


def _commit() -> str | None:
    """What is checked out, with `+` where files were changed; None outside a checkout."""
    git = shutil.which("git")
    if git is None:
        return None
    done = subprocess.run(  # noqa: S603 # a tool of the host
        [git, "describe", "--always", "--dirty=+", "--exclude=*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.stdout.strip() or None

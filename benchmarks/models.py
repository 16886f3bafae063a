"""The model of a GGUF file as the appliance imports it, made once and kept in the cache. Knows `models import`."""

import asyncio
import hashlib
import os
import sys
from pathlib import Path

import msgspec

from appliance.models.recipes import load_recipe
from appliance.models.store import Installed, Store
from benchmarks.errors import BenchmarkError
from benchmarks.llama_build import cache_directory
from benchmarks.measuring import Say

MODEL_ID = "benchmark"
GGUF_VARIABLE = "APPLIANCE_TEST_GGUF"
IMPORT_TIMEOUT_S = 1800.0


def gguf_file() -> Path:
    """The file that the environment names. Raises BenchmarkError where it names none."""
    named = os.environ.get(GGUF_VARIABLE)
    if not named:
        raise BenchmarkError(
            f"{GGUF_VARIABLE} is not set: it names the GGUF file, Q4_K_M of Qwen2.5 0.5B Instruct, that the daemon's "
            f"model is made of and llama.cpp runs; for example: make bench {GGUF_VARIABLE}=$HOME/qwen-q4_k_m.gguf"
        )
    file = Path(named).expanduser()
    if not file.is_file():
        raise BenchmarkError(f"{GGUF_VARIABLE} names {file}, which is no file")
    return file


def digest(file: Path) -> str:
    """SHA-256 of a file's bytes."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


async def imported(gguf: Path, gguf_digest: str, say: Say) -> tuple[Path, Installed]:
    """A store with the file's import by the default recipe, made where it is not there yet (about a minute).

    Raises BenchmarkError where the import fails.
    """
    recipe = hashlib.sha256(msgspec.json.encode(load_recipe())).hexdigest()[:8]
    directory = cache_directory() / f"store-{gguf_digest[:16]}-{recipe}"
    store = Store(directory)
    if store.find(MODEL_ID) is None:
        say(f"importing {gguf.name} for the daemon, about a minute")
        await _import(gguf, directory)
    return directory, store.choose([MODEL_ID])


async def _import(gguf: Path, store: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-P", "-m", "appliance", "models", "import", str(gguf), "--id", MODEL_ID],
        env=dict(os.environ) | {"APPLIANCE__MODELS__DIRECTORY": str(store)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(IMPORT_TIMEOUT_S):
            output, _ = await process.communicate()
    except TimeoutError:
        raise BenchmarkError(f"the import of {gguf} took more than {IMPORT_TIMEOUT_S:.0f} s") from None
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    if process.returncode != 0:
        raise BenchmarkError(f"the import of {gguf} failed:\n{output.decode(errors='replace')[-2000:]}")

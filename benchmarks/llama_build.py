"""llama.cpp's server and quantizer, built once and kept in the cache. Knows cmake and pip; starts no server."""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import platformdirs
from msgspec import Struct

from benchmarks.errors import BenchmarkError

REQUIREMENT = Path(__file__).with_name("llama-cpp.txt")
TARGETS = ("llama-server", "llama-quantize")
FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    # What an N100 has and no more: with AMX the server crashes on some virtual machines.
    "-DGGML_NATIVE=OFF",
    "-DGGML_AVX=ON",
    "-DGGML_AVX2=ON",
    "-DGGML_AVX_VNNI=ON",
    "-DGGML_FMA=ON",
    "-DGGML_F16C=ON",
    "-DGGML_BMI2=ON",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DBUILD_SHARED_LIBS=OFF",
    # A page for browsers, which the build would fetch from the net.
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
)
DOWNLOAD_TIMEOUT_S = 1800.0
BUILD_TIMEOUT_S = 3600.0
QUANTIZE_TIMEOUT_S = 600.0
LOG_TAIL_LINES = 20

Say = Callable[[str], None]


class LlamaCpp(Struct, frozen=True, kw_only=True):
    """A finished build."""

    directory: Path
    package: str
    """The pinned package whose source it is, as `name==version`."""
    flags: tuple[str, ...]
    compiler: str

    @property
    def server(self) -> Path:
        return self.directory / "llama-server"

    @property
    def quantizer(self) -> Path:
        return self.directory / "llama-quantize"


def cache_directory() -> Path:
    """Where builds and models of the benchmark are kept: below the XDG cache directory."""
    return platformdirs.user_cache_path("edge-chat-appliance-bench")


def llama_cpp(say: Say, jobs: int | None = None) -> LlamaCpp:
    """The build of the pinned source with FLAGS, made where it is not there yet (6 minutes on 2 cores).

    Raises BenchmarkError where a tool is missing, or the download or the build fails.
    """
    package = _package()
    compiler = _compiler_version()
    key = hashlib.sha256("\0".join([REQUIREMENT.read_text(), compiler, *FLAGS]).encode()).hexdigest()[:12]
    built = LlamaCpp(
        directory=cache_directory() / f"llama.cpp-{package.partition('==')[2]}-{key}",
        package=package,
        flags=FLAGS,
        compiler=compiler,
    )
    if not built.directory.is_dir():
        _build(built, say, jobs or os.cpu_count() or 1)
    return built


def quantized(build: LlamaCpp, source: Path, digest: str, name: str, say: Say) -> Path:
    """`source`, a GGUF file, requantized to type `name` (such as Q4_0) by llama.cpp; kept in the cache.

    `digest`: its SHA-256. Raises BenchmarkError where that fails.
    """
    directory = cache_directory() / "gguf"
    target = directory / f"{digest[:16]}-{build.directory.name}-{name.lower()}.gguf"
    if target.exists():
        return target
    directory.mkdir(parents=True, exist_ok=True)
    say(f"quantizing {source.name} to {name}")
    partial = target.with_suffix(f".{os.getpid()}.partial")
    try:
        command: list[str | Path] = [
            build.quantizer,
            "--allow-requantize",
            source,
            partial,
            name,
            str(os.cpu_count() or 1),
        ]
        _run(command, directory / f"{target.stem}.log", QUANTIZE_TIMEOUT_S)
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _package() -> str:
    lines = [line for line in REQUIREMENT.read_text().splitlines() if line and not line.startswith("#")]
    return lines[0].split()[0]


def _tool(name: str, debian: str) -> str:
    """The tool beside this interpreter, where the extra `bench` puts it, or on PATH."""
    found = shutil.which(name, path=_tool_path())
    if found is None:
        raise BenchmarkError(
            f"{name} is needed to build llama.cpp and is not there: apt-get install {debian}, "
            "or leave llama.cpp out: make bench ARGS=--without-llama"
        )
    return found


def _tool_path() -> str:
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def _compiler_version() -> str:
    done = subprocess.run(  # noqa: S603 # a tool of the host
        [_tool("c++", "g++"), "--version"], capture_output=True, text=True, timeout=30, check=False
    )
    return done.stdout.splitlines()[0] if done.stdout else "unknown"


def _build(build: LlamaCpp, say: Say, jobs: int) -> None:
    cmake, ninja = _tool("cmake", "cmake"), _tool("ninja", "ninja-build")
    parent = build.directory.parent
    parent.mkdir(parents=True, exist_ok=True)
    log = parent / f"{build.directory.name}.log"
    log.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix="building-") as temporary:
        scratch = Path(temporary)
        say(f"downloading the source of llama.cpp ({build.package})")
        source = _download(scratch, log)
        say(f"building llama.cpp with {jobs} jobs, some minutes; log: {log}")
        configure = [cmake, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}", *build.flags]
        _run([*configure, "-S", source, "-B", scratch / "out"], log, BUILD_TIMEOUT_S)
        _run(
            [cmake, "--build", scratch / "out", "--parallel", str(jobs), "--target", *TARGETS],
            log,
            BUILD_TIMEOUT_S,
        )
        result = scratch / "result"
        result.mkdir()
        for name in TARGETS:
            shutil.copy2(scratch / "out" / "bin" / name, result / name)
        (result / "build.json").write_bytes(msgspec.json.format(msgspec.json.encode(build, enc_hook=str)))
        result.rename(build.directory)


def _download(scratch: Path, log: Path) -> Path:
    """The directory with llama.cpp's source. pip checks the hash, and asks the registry as this host is set up to."""
    command = [sys.executable, "-m", "pip", "download", "--no-input", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-binary", "llama-cpp-python", "--require-hashes", "--requirement", str(REQUIREMENT)]
    _run([*command, "--dest", scratch], log, DOWNLOAD_TIMEOUT_S)
    archive = next(scratch.glob("*.tar.gz"))
    with tarfile.open(archive) as tar:
        tar.extractall(scratch / "source", filter="data")
    return next((scratch / "source").glob("*/vendor/llama.cpp"))


def _run(command: Sequence[str | Path], log: Path, timeout_s: float) -> None:
    """Run to the end, output to `log`. Raises BenchmarkError with the end of the log where it fails."""
    with log.open("ab") as output:
        try:
            done = subprocess.run(  # noqa: S603 # pinned tools, no shell
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise BenchmarkError(f"{Path(command[0]).name} took more than {timeout_s:.0f} s; log: {log}") from None
    if done.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])
        raise BenchmarkError(f"{Path(command[0]).name} failed with status {done.returncode}; log: {log}\n{tail}")

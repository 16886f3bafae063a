"""GGUF to IR by a child: what it reports, how its end is told. The child here is a script, not the engine."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from appliance.engine.conversion import describe_weights
from appliance.models.children import open_child
from appliance.models.errors import ImportFailed
from appliance.models.fake import fake_model
from appliance.models.importers import Converted, gguf
from appliance.models.importers.gguf import convert
from appliance.models.progress import Silent

UseScript = Callable[[str], None]

GOOD = '{"eos_token_ids": [0, 2], "chat_template": true, "text": "Hi", "weights": "INT4"}'


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> UseScript:
    def use(script: str) -> None:
        monkeypatch.setattr(gguf, "CONVERSION", ("-c", script))

    return use


def run(directory: Path, timeout_s: float = 30.0) -> Converted:
    return convert(directory / "model.gguf", directory, fake_model(), Silent(), timeout_s=timeout_s)


def test_the_report_is_the_last_json_line(child: UseScript, tmp_path: Path) -> None:
    child(f"print('noise'); print('''{GOOD}'''); print('more noise')")
    converted = run(tmp_path)
    assert converted.eos_token_ids == (0, 2)
    assert converted.weights == "INT4"


def test_the_child_gets_file_directory_and_eos_tokens(child: UseScript, tmp_path: Path) -> None:
    child("import sys, json; print(json.dumps({'error': ' '.join(sys.argv[1:])})); sys.exit(1)")
    with pytest.raises(ImportFailed, match=f"-- {tmp_path}/model.gguf {tmp_path} </s>"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("""print('{"error": "gguf_tensor_to_f16 failed"}'); raise SystemExit(1)""", "gguf_tensor_to_f16 failed"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended by SIGSEGV"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended by SIGKILL, as the kernel does when memory"),
        ("import sys; sys.exit('no such module')", "exit status 1: no such module"),
        ("pass", "exit status 0"),
        (f"print('''{GOOD}'''.replace('Hi', ' '))", "generates no text"),
        (f"print('''{GOOD}'''.replace('true', 'false'))", "no chat template"),
        (f"print('''{GOOD}'''.replace('0, 2', ''))", "no token ends an answer"),
        (f"print('''{GOOD}'''.replace('true', '7'))", "exit status 0"),
    ],
)
def test_a_failure_is_told_in_one_line(child: UseScript, tmp_path: Path, script: str, said: str) -> None:
    child(script)
    with pytest.raises(ImportFailed, match=rf"\Afake: [^\n]*{said}[^\n]*\Z"):
        run(tmp_path)


def test_a_conversion_that_takes_too_long_is_ended(child: UseScript, tmp_path: Path) -> None:
    child("import time; time.sleep(60)")
    with pytest.raises(ImportFailed, match=r"ended after 0\.3 s"):
        run(tmp_path, timeout_s=0.3)


def test_a_failure_on_a_full_disk_is_a_full_disk(
    child: UseScript,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    child("raise SystemExit(1)")
    monkeypatch.setattr(gguf, "FULL_DISK_BYTES", 1 << 80)
    with pytest.raises(OSError) as caught:  # noqa: PT011 # the number is checked
        run(tmp_path)
    assert caught.value.errno == errno.ENOSPC


def test_genais_words_for_a_full_disk_are_understood(child: UseScript, tmp_path: Path) -> None:
    child("""print('{"error": "basic_ios::clear: iostream error"}'); raise SystemExit(1)""")
    (tmp_path / "model.gguf").write_bytes(b"")
    with pytest.raises(ImportFailed, match="iostream error"):  # with room for the file the disk is not why
        run(tmp_path)
    os.truncate(tmp_path / "model.gguf", shutil.disk_usage(tmp_path).free + (1 << 30))
    with pytest.raises(OSError, match="No space left on device"):
        run(tmp_path)


def test_what_a_child_counts_is_shown_by_the_names_of_its_steps(child: UseScript, tmp_path: Path) -> None:
    told = []

    class Told(Silent):
        def stage(self, label: str, total_bytes: int | None = None) -> None:
            told.append(label)

        def count(self, done: int, total: int) -> None:
            told.append(f"{done} of {total}")

        def advance(self, done_bytes: int = 0, total_bytes: int | None = None) -> None:
            if total_bytes:
                told.append(f"{done_bytes} of {total_bytes} bytes")

    steps = [
        {"done": 10, "total": 90},
        {"done": 0, "total": 2, "doing": "reading"},
        {"done": 1, "total": 2, "doing": "reading"},
        {"done": 3, "total": 4, "doing": "rounding"},
    ]
    child("".join(f"print({json.dumps(step)!r});" for step in steps) + f"print('{GOOD}')")
    convert(tmp_path / "model.gguf", tmp_path, fake_model(), Told())
    assert told == [
        "fake: converting",
        "10 of 90 bytes",
        "fake: reading",
        "0 of 2",
        "1 of 2",
        "fake: rounding",
        "3 of 4",
    ]


def test_leaving_the_block_ends_the_child_and_its_own_children() -> None:
    script = (
        "import os, subprocess, time\n"
        "print(os.getpid(), subprocess.Popen(['sleep', '60']).pid, flush=True)\n"
        "time.sleep(60)"
    )
    with open_child(["-c", script], os.environ) as running:
        line = next(line for line in running.lines() if line)
    end = time.monotonic() + 10  # the kill is sent; the grandchild, whom nobody here waits for, dies a moment later
    while (running_still := [pid for pid in line.split() if is_running(int(pid))]) and time.monotonic() < end:
        time.sleep(0.01)
    assert running_still == []


@pytest.mark.parametrize("late", ["", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_parent_that_ends_while_it_starts_a_child_leaves_none(tmp_path: Path, late: str) -> None:
    """SIGTERM between fork and the end of Popen; with `late`, SIGKILL before the child could ask to end with it."""
    script = f"""
import os, signal, subprocess, sys
from appliance.models.children import open_child, terminated_as_exception

class Interrupted(subprocess.Popen):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        print(self.pid, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
        {late}

subprocess.Popen = Interrupted
errand = "import time; from appliance.engine import errand; time.sleep(1); errand.run_errand(lambda: time.sleep(60))"
with terminated_as_exception(), open_child(["-c", errand], os.environ):
    print("the block began")
"""
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode != 0
    assert "the block began" not in done.stdout
    child = int(done.stdout)
    end = time.monotonic() + 30
    while is_running(child) and time.monotonic() < end:
        time.sleep(0.01)
    assert not is_running(child)


def is_running(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_weights_are_described_by_their_bits_group_and_zero_points() -> None:
    def constant(element: str, shape: str) -> str:
        return f'<data element_type="{element}" shape="{shape}" offset="0" size="1" />\n'

    ir = constant("u4", "1000, 100, 32") + constant("u4", "1000, 100, 1") + constant("f16", "1000, 100, 1")
    ir += constant("i8", "1000, 1000") + constant("f16", "1000, 1") + constant("i64", "4")
    assert describe_weights(ir) == "INT4 asymmetric group 32 (3 M weights), INT8 symmetric per channel (1 M weights)"
    assert describe_weights(constant("f32", "10, 10")) == ""

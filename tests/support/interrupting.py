"""A command that is interrupted in the middle of its work."""

import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence

import psutil


def interrupted_while_converting(
    command: Sequence[str],
    environ: Mapping[str, str],
    number: signal.Signals,
    first: Callable[[], object] = lambda: None,
) -> tuple[int, str]:
    """Exit status, and what was said after the signal, of a command that got it while its child converts a model.

    `first` is called before that. Asserts that no child is left.
    """
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "converting" in line:
                break
        children: list[psutil.Process] = []
        while not children:  # the line comes just before the child
            children = psutil.Process(process.pid).children(recursive=True)
        first()
        process.send_signal(number)
        rest = process.stderr.read()
        status = process.wait(30)
    # Its own child it has waited for; what that one started has not been.
    assert psutil.wait_procs(children, timeout=10)[1] == []
    return status, rest

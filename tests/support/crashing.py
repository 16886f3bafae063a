"""A process that dies at every one of its steps: whatever it does to files, one death at each.

    python -P -m tests.support.crashing STORE ACTION

copies STORE for each attempt, has a forked child do ACTION on the copy and die at the n-th event that the
interpreter audits (each open, rename, link, mkdir, removal …), for n = 1, 2 … until a child comes to the end, and
prints the directories of the copies, one a line.
"""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from appliance.models.fake import install_fake
from appliance.models.pruning import plan, prune
from appliance.models.slots import Slot
from appliance.models.store import Store
from appliance.models.using import use_at_next_start

DIED = 9
MOST_STEPS = 2000
WATCHED = ("open", "os.", "shutil.", "fcntl.", "ctypes.call", "tempfile.")


def use(store: Store) -> None:
    use_at_next_start(store, ["fake"], "other")


def rollback(store: Store) -> None:
    use_at_next_start(store, ["fake"], None)


def install(store: Store) -> None:
    install_fake(store, "fake", b"another version")


def install_again(store: Store) -> None:
    install_fake(store, "fake", b"one")  # the same digest as an older copy, which is current


def remove_all_but_current(store: Store) -> None:
    planned = plan(store, ["fake"], served=None)
    only = {Slot(entry.id, entry.directory.name) for entry in planned.removed}
    prune(store, ["fake"], served=None, only=only, wait_s=1, on_wait=print)


ACTIONS: dict[str, Callable[[Store], None]] = {
    action.__name__: action for action in (use, rollback, install, install_again, remove_all_but_current)
}


def _die_at(step: int) -> None:
    left = step

    def count(event: str, _arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event.startswith(WATCHED):
            left -= 1
            if left == 0:
                os._exit(DIED)

    sys.addaudithook(count)


def main() -> None:
    """See above."""
    original, action = Path(sys.argv[1]), ACTIONS[sys.argv[2]]
    for step in range(1, MOST_STEPS):
        copy = original.with_name(f"{original.name}-{step}")
        shutil.copytree(original, copy)
        child = os.fork()
        if child == 0:
            _die_at(step)
            action(Store(copy))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(copy, flush=True)
        if os.waitstatus_to_exitcode(status) == 0:
            return
        assert os.waitstatus_to_exitcode(status) == DIED, f"step {step}: {status}"
    raise AssertionError(f"more than {MOST_STEPS} steps")


if __name__ == "__main__":
    main()

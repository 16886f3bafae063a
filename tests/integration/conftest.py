"""Fixtures that several modules of this suite want: what stands around a daemon that is a process of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.notify import Manager, service_manager


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    """A service manager that is told by every daemon which the test starts."""
    with service_manager(tmp_path) as listening:
        monkeypatch.setenv("NOTIFY_SOCKET", str(listening.path))
        yield listening

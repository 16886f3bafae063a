"""Fixtures that several modules of this suite want: what stands around a daemon, and one over TLS."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.certificates import Site
from tests.support.daemon import Appliance, running, settings
from tests.support.notify import Manager, service_manager
from tests.support.tls import over_tls


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A site's CA, which has issued nothing yet."""
    return Site(tmp_path)


@pytest.fixture
async def secure(site: Site) -> AsyncIterator[Appliance]:
    """A ready daemon with the fake engine, over TLS."""
    site.issue()
    async with running(settings(server=over_tls(site))) as started:
        await started.ready()
        yield started


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    """A service manager that is told by every daemon which the test starts."""
    with service_manager(tmp_path) as listening:
        monkeypatch.setenv("NOTIFY_SOCKET", str(listening.path))
        yield listening

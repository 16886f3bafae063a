"""What a start would refuse besides settings: files that the service's account can't read, and too little memory."""

import os
import pwd
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.config.paths import SYSTEM_CONFIG
from appliance.errors import ConfigError
from appliance.installing.layout import USER

if TYPE_CHECKING:
    from appliance.config import Effective, Settings
    from appliance.models.store import Store

TIMEOUT_S = 20.0


def require_readable(effective: "Effective") -> None:
    """Raises ConfigError where the service's account can't read the settings or the certificate; the key may be root's.

    Only root can try it, and only the system's own settings are the service's.
    """
    file = effective.file
    if file is None or file.absolute() != SYSTEM_CONFIG or os.geteuid() != 0 or not _has_account():
        return
    certificate = effective.settings.server.tls_certificate_file
    for needed in (file, *([Path(certificate)] if certificate else [])):
        if not _may(needed, "-r"):
            raise ConfigError(f"{needed} can't be read by {USER}, the service's account: {' && '.join(_mend(needed))}")


def require_memory_of_model(settings: "Settings", store: "Store") -> None:
    """Raises ConfigError where the model of the next start does not fit this machine's memory; reads no weights."""
    from appliance.errors import ApplianceError
    from appliance.models.choosing import resolve
    from appliance.models.served import require_memory, served_model
    from appliance.models.using import served_without_daemon

    try:
        slot = served_without_daemon(store, settings.models.preferred)
        served = None if slot is None else served_model(resolve(store, str(slot)))
    except (ApplianceError, OSError):
        return  # what is wrong with models is no matter of settings: the start tells it, and doctor
    if served is not None:
        require_memory(settings.engine, served)


def _has_account() -> bool:
    try:
        pwd.getpwnam(USER)
    except KeyError:
        return False
    return True


def _mend(file: Path) -> Iterator[str]:
    if closed := next((place for place in reversed(file.absolute().parents) if not _may(place, "-x")), None):
        yield f"chmod 755 {closed}"
    yield f"chmod 644 {file}"


def _may(file: Path, how: str) -> bool:
    """Whether the account may, as the kernel says: with all directories above it, and access lists where there are."""
    as_account = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups", "test", how, str(file)]
    try:
        done = subprocess.run(as_account, capture_output=True, timeout=TIMEOUT_S, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return True  # not known
    return done.returncode != 1

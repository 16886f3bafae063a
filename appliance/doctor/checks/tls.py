"""The certificate: how long it is good for, whether its key is there and new connections get it. Connects to nobody."""

import re
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from appliance.config.certificate import CREDENTIALS, DROP_IN, Certificate, read_certificate, require_pair, shown
from appliance.doctor.findings import Finding, green, red, unknown, yellow
from appliance.doctor.reach import unreadable
from appliance.doctor.surroundings import SERVICE, Surroundings
from appliance.errors import ConfigError

SOON_DAYS = 30
DAY_S = 86_400
RESTART = "systemctl restart appliance"


def _now() -> datetime:
    return datetime.now(UTC)


def check_tls(here: Surroundings, *, now: Callable[[], datetime] = _now) -> Finding:
    """The files that the daemon has its certificate from, and what it shows of them."""
    server = here.settings.server
    if not server.tls_certificate_file:
        return _without(here)
    file, key_file = (_place(here, path) for path in (server.tls_certificate_file, server.tls_key_file))
    facts: dict[str, object] = {"in_use": True, "certificate_file": str(file), "key_file": str(key_file)}
    try:
        certificate = read_certificate(file)
    except ConfigError as error:
        return _unread(error, facts)
    left_days = (certificate.not_after - now()).total_seconds() / DAY_S
    facts |= {
        "names": list(certificate.names),
        "not_before": certificate.not_before.isoformat(),
        "not_after": certificate.not_after.isoformat(),
        "left_days": round(left_days, 1),
    }
    renew = f"have it renewed, put it in place of the old one, then: {_in_force(key_file)}"
    trouble = _of_the_pair(here, file, key_file, certificate, facts)
    if trouble is not None and trouble.status == "red":
        return trouble
    if problem := certificate.problem(now()):
        early = certificate.not_before > now()
        remedy = "see whether the clock is right: timedatectl" if early else renew
        return red("tls", f"the certificate in {file} {problem}: clients refuse it", remedy, **facts)
    if trouble is not None:
        return trouble
    until = f"{left_days:.0f} days left, until {shown(certificate.not_after)}"
    if left_days < SOON_DAYS:
        return yellow("tls", f"the certificate in {file} expires soon: {until}", renew, **facts)
    return green("tls", f"{until}, for {', '.join(certificate.names)}", **facts)


def _without(here: Surroundings) -> Finding:
    if here.of_status("tls") is not None:
        return yellow("tls", "the daemon speaks https://, and the settings say no more of that", RESTART, in_use=True)
    return green("tls", "not in use: http:// and ws:// (server.tls_certificate_file)", in_use=False)


def _of_the_pair(
    here: Surroundings, file: Path, key_file: Path, certificate: Certificate, facts: dict[str, object]
) -> Finding | None:
    """What is wrong with the key, or with who may read either; whether the daemon shows this certificate."""
    in_force = here.of_status("tls", "certificate_sha256") == certificate.sha256
    try:
        require_pair(file, _source(here, key_file))
    except ConfigError as error:
        if not (in_force and isinstance(error.__cause__, PermissionError)):
            return _unread(error, facts)
    hidden = unreadable(here, file, *(() if _handed(key_file) else (key_file,)))
    if hidden is not None:
        return red("tls", f"the service's account {here.service['User']} can't read {hidden}",
                   f"chmod 0644 a certificate, 0755 its directory; systemd can hand over a key: {DROP_IN}",
                   **facts)  # fmt: skip
    if _others_may_read(_source(here, key_file)):
        return yellow("tls", f"every account of this host may read the key in {_source(here, key_file)}",
                      f"chmod 600 {_source(here, key_file)}", **facts)  # fmt: skip
    if here.status is None or in_force:
        return None
    if here.of_status("tls") is None:
        return yellow("tls", "the daemon speaks http://: it is older than the settings", RESTART, **facts)
    return yellow("tls", f"{file} has another certificate than new connections get: it was not read since it changed",
                  _in_force(key_file), **facts)  # fmt: skip


def _unread(error: ConfigError, facts: dict[str, object]) -> Finding:
    if isinstance(error.__cause__, PermissionError):
        return unknown("tls", str(error).partition(";")[0], "run it as root", **facts)
    return red("tls", str(error), f"mend that, then: appliance config check; {RESTART}", **facts)


def _place(here: Surroundings, path: str) -> Path:
    file = Path(path).expanduser()
    return here.root / file.relative_to("/") if file.is_absolute() else file


def _handed(file: Path) -> bool:
    """Whether systemd hands it over, as it was when the service started."""
    return CREDENTIALS in str(file)


def _source(here: Surroundings, key_file: Path) -> Path:
    """Where it comes from at the next start. `systemctl show` does not tell of credentials."""
    if not _handed(key_file):
        return key_file
    unit = here.ask(["systemctl", "cat", SERVICE]).out
    found = re.findall(rf"^LoadCredential={re.escape(key_file.name)}:(/\S+)$", unit, re.MULTILINE)
    return _place(here, found[-1]) if found else key_file


def _others_may_read(key_file: Path) -> bool:
    try:
        return bool(key_file.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


def _in_force(key_file: Path) -> str:
    another = f" (with another key: {RESTART})" if _handed(key_file) else ""
    return f"systemctl reload appliance{another}"

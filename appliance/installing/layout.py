"""Where an installation puts what. Knows paths, below a root that may be another than /; touches no file's content."""

from pathlib import Path

from appliance.config.paths import SYSTEM_OPT

OPT = SYSTEM_OPT
CURRENT = OPT / "current"
USER = "appliance"
SERVICE = "appliance.service"
SOCKET = "appliance.socket"
UNIT_PATTERNS = ("appliance*", "system-appliance*")  # the names of all units, and of their directories of drop-ins


class Layout:
    """The places of one installation, all below `root`."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root
        self.opt = self.below(OPT)
        self.releases = self.opt / "releases"
        self.current = self.opt / "current"
        self.previous = self.opt / "previous"
        self.command = self.below("/usr/local/bin/appliance")
        # "System units installed by the administrator" (systemd.unit(5)): below what `systemctl edit` writes to /etc.
        self.units = self.below("/usr/local/lib/systemd/system")
        self.own_units = self.below("/etc/systemd/system")
        self.sysusers = self.below("/usr/local/lib/sysusers.d")
        self.tmpfiles = self.below("/usr/local/lib/tmpfiles.d")
        self.catalog = self.below("/usr/local/lib/systemd/catalog")
        self.catalog_database = self.below("/var/lib/systemd/catalog/database")
        self.timer_stamps = self.below("/var/lib/systemd/timers")
        self.config = self.below("/etc/appliance")
        self.settings = self.config / "appliance.toml"
        self.state = self.below("/var/lib/appliance")
        self.cache = self.below("/var/cache/appliance")
        self.passwd = self.below("/etc/passwd")
        self.lock = self.opt / ".lock"

    @property
    def is_this_host(self) -> bool:
        """Whether it is the running system, not the root of another."""
        return self.root == Path("/")

    def below(self, path: str | Path) -> Path:
        """An absolute path of the installed system, as it is reached from here."""
        return self.root / str(path).lstrip("/")

    def release(self, version: str) -> Path:
        """The directory of a release, which may not be there."""
        return self.releases / version

    def version_of(self, link: Path) -> str | None:
        """The release that `current` or `previous` leads to; None where it leads to none that is there."""
        if not link.is_symlink():
            return None
        target = Path(link.readlink())
        return target.name if target.parent.name == "releases" and self.release(target.name).is_dir() else None

    def has_user(self) -> bool:
        """Whether the service's account exists."""
        try:
            return any(line.startswith(f"{USER}:") for line in self.passwd.read_text("utf-8").splitlines())
        except OSError:
            return False

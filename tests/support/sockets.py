"""The kernel's tables of sockets, made up for a host below a root. Knows what they look like; judges nothing."""

from pathlib import Path

from tests.support.doctor import write

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
LINE = "   0: {address} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  {uid}        0 {inode} 1\n"
LOCAL, ALL_IPV4 = "0100007F:1F90", "00000000:1F90"
ALL, LOCAL_IPV6 = f"{'0' * 32}:1F90", "00000000000000000000000001000000:1F90"
FROM_SYSTEMD, ACCOUNT = 0, 999  # whose sockets they are
PID = 4711  # of the daemon


def host(root: Path, *sockets: tuple[str, int, int], own: tuple[int, ...] = ()) -> Path:
    """Listening sockets as (address, user id, inode); `own`: those that the daemon has open."""
    tables: dict[str, str] = {"tcp": HEAD, "tcp6": HEAD}
    for address, uid, inode in sockets:
        table = "tcp" if len(address) == len(LOCAL) else "tcp6"
        tables[table] += LINE.format(address=address, state="0A", uid=uid, inode=inode)
    write(root, {f"proc/net/{name}": table for name, table in tables.items()})
    opened = root / f"proc/{PID}/fd"
    opened.mkdir(parents=True)
    for number, inode in enumerate(own):
        (opened / str(number)).symlink_to(f"socket:[{inode}]")
    (opened / "9").symlink_to("anon_inode:[eventpoll]")
    return root

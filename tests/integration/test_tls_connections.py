"""Handshakes that are never finished, and the ends of connections with TLS: what they hold, and for how long."""

import asyncio
import contextlib
import gc
import logging
import socket
import ssl
import struct
from asyncio.sslproto import SSLProtocol

import aiohttp
import pytest

from appliance.api import tls
from appliance.observability.logs import fields_of
from tests.integration.test_half_closed import CHAT, frame, server_sockets, upgrade
from tests.support.certificates import Site
from tests.support.daemon import Appliance, running, settings, until
from tests.support.tls import of_site, over_tls, port_of, raw


async def test_who_does_not_finish_a_handshake_is_dropped(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "appliance.api.tls")
    monkeypatch.setattr(tls, "HANDSHAKE_S", 0.3)
    site.issue()
    async with running(settings(server=over_tls(site))) as appliance:
        hello = ssl.MemoryBIO()
        begun = of_site(site).wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost")
        with contextlib.suppress(ssl.SSLWantReadError):
            begun.do_handshake()
        for said in (b"", hello.read()[:50], b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\0" * 5000):
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(appliance))
            writer.write(said)
            async with asyncio.timeout(10):
                with contextlib.suppress(ConnectionError):
                    await reader.read()
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        assert (await appliance.get("/healthz"))[0] == 200
    told = [fields_of(record) for record in caplog.records if record.getMessage() == "no TLS came about"]
    assert [entry["client"] for entry in told] == ["127.0.0.1"] * 4
    assert any("HTTP_REQUEST" in str(entry["reason"]) for entry in told)


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"whole"])
async def test_what_ended_leaves_no_memory_to_the_garbage_collector(
    site: Site, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    """It counts objects, and a buffer of 64 KiB is one: a flood would have hundreds of MB wait for it."""
    monkeypatch.setattr(tls, "HANDSHAKE_S", 0.1)
    site.issue()
    async with running(settings(server=over_tls(site))) as appliance:
        await appliance.ready()
        await asyncio.sleep(0)
        gc.collect()
        gc.disable()
        try:
            for _ in range(5):
                await come_and_go(appliance, said, of_site(site) if said == b"whole" else None)
            await until(lambda: not alive(), 5)
        finally:
            gc.enable()


async def come_and_go(appliance: Appliance, said: bytes, context: ssl.SSLContext | None) -> None:
    """Say that, or over TLS a request, and wait for the end."""
    request = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(appliance), ssl=context)
    writer.write(said if context is None else request)
    with contextlib.suppress(ConnectionError):
        await reader.read()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


def alive() -> int:
    """TLS of this process's servers."""
    return sum(isinstance(found, SSLProtocol) and found._server_side for found in gc.get_objects())


async def test_handshakes_count_as_connections(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.api.app.SPARE_CONNECTIONS", 1)
    site.issue()
    async with running(settings(server=over_tls(site, max_connections=4))) as appliance, appliance.connect():
        silent = [await asyncio.open_connection("127.0.0.1", port_of(appliance)) for _ in range(4)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(appliance))
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""  # at once
        silent[0][1].close()
        await silent[0][1].wait_closed()
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    assert (await appliance.get("/healthz"))[0] == 200
                    break
        for _, one in [*silent[1:], (reader, writer)]:
            one.close()
            with contextlib.suppress(ConnectionError):
                await one.wait_closed()


async def test_a_request_that_comes_with_the_end_of_the_handshake_is_heard(secure: Appliance, site: Site) -> None:
    """In one packet: it is there before anybody is who could take it."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    talk = of_site(site).wrap_bio(incoming, outgoing, server_hostname="localhost")
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(secure))
    while True:
        try:
            talk.do_handshake()
            break
        except ssl.SSLWantReadError:
            writer.write(outgoing.read())
            incoming.write(await reader.read(1 << 16))
    talk.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    writer.write(outgoing.read())
    incoming.write(await reader.read(1 << 16))
    answer = b""
    while b"healthy" not in answer:
        try:
            answer += talk.read(1 << 16)
        except ssl.SSLWantReadError:
            incoming.write(await reader.read(1 << 16))
    assert answer.startswith(b"HTTP/1.1 200 ")
    writer.close()


async def test_resets_during_and_after_the_handshake_leave_nothing(secure: Appliance, site: Site) -> None:
    linger = struct.pack("ii", 1, 0)  # closing is a reset
    ports = []
    for number in range(20):
        if number % 2:
            peer: socket.socket = await raw(secure, site)
            peer.sendall(upgrade())
        else:
            peer = socket.create_connection(("127.0.0.1", port_of(secure)))
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        ports.append(peer.getsockname()[1])
        peer.close()
    await until(lambda: not any(map(server_sockets, ports)) and not secure.daemon.connections)


async def test_who_leaves_as_soon_as_the_handshake_is_done_is_no_error(
    secure: Appliance, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(30):
        _, writer = await asyncio.open_connection("127.0.0.1", port_of(secure), ssl=of_site(site))
        writer.close()
        await asyncio.sleep(0)
    assert (await secure.get("/healthz"))[0] == 200
    await asyncio.sleep(0.1)
    gc.collect()  # which is when asyncio tells of exceptions that nobody saw
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_peer_that_half_closes_and_reads_nothing_holds_no_connection(secure: Appliance, site: Site) -> None:
    with await raw(secure, site) as peer:
        await asyncio.to_thread(peer.sendall, upgrade())
        await asyncio.to_thread(peer.sendall, frame(CHAT % (b"w" * 30_000)))
        await until(lambda: any(c._transport and c._unsent_bytes(c._transport) for c in secure.daemon.connections))
        own_port = peer.getsockname()[1]
        socket.socket.shutdown(peer, socket.SHUT_WR)
        await until(lambda: server_sockets(own_port) == 0 and not secure.daemon.connections, 20)


async def test_a_reader_that_stops_is_closed_and_what_it_was_sent_is_bounded(secure: Appliance, site: Site) -> None:
    with await raw(secure, site) as peer:
        await asyncio.to_thread(peer.sendall, upgrade())
        own_port = peer.getsockname()[1]
        for number in range(4):
            await asyncio.to_thread(peer.sendall, frame(CHAT.replace(b'"r1"', b'"r%d"' % number) % (b"w" * 30_000)))
        await until(lambda: bool(secure.daemon.connections))
        (ours,) = secure.daemon.connections
        assert ours._transport is not None
        most = 0
        while secure.daemon.connections:
            most = max(most, ours._unsent_bytes(ours._transport))
            await asyncio.sleep(0.01)
        assert 0 < most < 1 << 19
        await until(lambda: server_sockets(own_port) == 0, 20)

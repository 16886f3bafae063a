"""TLS of a daemon in this process: who is served, who is not and is told why, and with which certificate."""

import asyncio
import ssl
from typing import Any

import aiohttp
import pytest

from appliance.client import ConnectFailed, ConnectionLost, Message, TlsFailed, connect
from appliance.client.tls import trusting
from appliance.config.certificate import open_certificate
from tests.support.certificates import Site
from tests.support.daemon import Appliance, running, settings
from tests.support.tls import of_site, over_tls, port_of, raw

QUESTION = [Message("user", "hello")]


async def test_a_client_that_trusts_the_ca_is_answered(secure: Appliance, site: Site) -> None:
    assert secure.url.startswith("https://127.0.0.1:")
    for url in (secure.url, secure.url.replace("https", "wss").replace("127.0.0.1", "localhost")):
        async with connect(url, tls=of_site(site)) as client, client.stream(QUESTION, max_tokens=3) as answer:
            async for _ in answer:
                pass
        assert answer.done.usage.completion_tokens == 3
    status, told = await secure.get("/v1/status")
    assert status == 200
    assert secure.daemon.certificate is not None
    shown = secure.daemon.certificate.certificate
    assert told["tls"] == {"certificate_sha256": shown.sha256, "not_after": shown.not_after.isoformat()}
    assert await secure.metric("appliance_tls_certificate_expiry_timestamp_seconds") == shown.not_after.timestamp()


async def test_a_long_answer_comes_whole(secure: Appliance) -> None:
    async with secure.connect() as peer:
        await peer.chat("r1", "x" * 10_000, params={"max_tokens": 200})
        text, end = await peer.answer("r1")
        assert (end["type"], end["usage"]["completion_tokens"]) == ("done", 200)
        assert len(text) > 1 << 20


@pytest.mark.parametrize(
    ("made", "asked", "words"),
    [
        ({}, "127.0.0.1", "nobody whom this host trusts vouches for its certificate (unable to get local issuer"),
        ({"days": -0.5}, "127.0.0.1", "has expired; have it renewed there"),
        ({"from_days": 1}, "127.0.0.1", "is not valid yet; see whether the clocks"),
        ({"names": ["chat.example.lan"]}, "127.0.0.1", "is for another name; ask by one that it has (IP address"),
        ({"names": ["chat.example.lan"]}, "localhost", "is for another name; ask by one that it has (Hostname"),
    ],
)
async def test_a_certificate_that_is_not_to_be_trusted_is_told_with_the_remedy(
    site: Site, made: dict[str, Any], asked: str, words: str
) -> None:
    site.issue(**made)
    async with running(settings(server=over_tls(site))) as appliance:
        trust = of_site(site) if made else None
        with pytest.raises(TlsFailed) as caught:
            async with connect(appliance.url.replace("127.0.0.1", asked), tls=trust):
                pass
        assert words in str(caught.value)
        assert ("SSL_CERT_FILE" in str(caught.value)) == (trust is None)


async def test_http_to_a_port_with_tls_and_https_to_one_without_are_told(
    secure: Appliance, appliance: Appliance
) -> None:
    with pytest.raises(
        ConnectFailed, match="closed the connection without an answer; where it speaks TLS, ask by https:"
    ):
        async with connect(secure.url.replace("https", "http")):
            pass
    with pytest.raises(TlsFailed, match="no TLS there; ask it by http://"):
        async with connect(appliance.url.replace("http", "https")):
            pass
    await secure.ready()


async def test_the_code_of_a_close_is_known_though_the_end_comes_with_it(secure: Appliance, site: Site) -> None:
    async with connect(secure.url, tls=of_site(site)) as client, client.stream(QUESTION, max_tokens=4000) as answer:
        assert client._connection is not None
        await client._connection._socket.send_frame(b"\xff\xfe", aiohttp.WSMsgType.TEXT)  # no UTF-8
        with pytest.raises(ConnectionLost, match="1007"):
            async for _ in answer:
                pass


async def test_tls_1_1_is_refused(secure: Appliance, site: Site) -> None:
    context = of_site(site)
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        await raw(secure, site, context)
    context = of_site(site)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with await raw(secure, site, context) as peer:
        assert peer.version() == "TLSv1.2"


async def test_pages_of_its_own_come_by_https(secure: Appliance) -> None:
    place = secure.url.removeprefix("https://")
    async with secure.connect(headers={"Origin": f"https://{place}"}):
        pass
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:  # which anybody on the way may have written
        async with secure.connect(headers={"Origin": f"http://{place}"}):
            pass
    assert refused.value.status == 403


# ---- certificates ------------------------------------------------------------------------------------------


async def test_new_connections_get_another_certificate_and_those_that_are_open_stay(
    secure: Appliance, site: Site
) -> None:
    async with secure.connect() as peer:
        before = await presented(secure)
        site.issue(days=200)
        served = await asyncio.to_thread(open_certificate, secure.daemon.settings.server)
        assert served is not None
        secure.daemon.show(served)
        assert await presented(secure) != before
        await peer.chat("r1", "still there", params={"max_tokens": 2})
        assert (await peer.answer("r1"))[1]["type"] == "done"


async def presented(appliance: Appliance) -> str:
    """What a new connection gets."""
    place = ("127.0.0.1", port_of(appliance))
    return await asyncio.to_thread(ssl.get_server_certificate, place, timeout=10)


async def test_a_host_knows_its_own_appliance_by_its_certificate_whatever_the_name(site: Site) -> None:
    file, _ = site.issue(names=["chat.example.lan"])
    async with running(settings(server=over_tls(site))) as appliance:
        async with connect(appliance.url, tls=trusting(file)) as client:
            assert client.hello.model.id == "fake"
        other, _ = site.issue("other", names=["127.0.0.1"])  # of the same CA, and not the same
        with pytest.raises(TlsFailed):
            async with connect(appliance.url, tls=trusting(other)):
                pass

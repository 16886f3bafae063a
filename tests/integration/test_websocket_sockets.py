"""Who may connect, how many, and which sockets are closed: readers that don't read, peers that are gone."""

import asyncio

import aiohttp
import pytest

from tests.support.daemon import Appliance, running, settings, until

ENDLESS = "again and again fake:step-ms=2"


async def test_what_a_gone_client_asked_for_is_stopped(appliance: Appliance) -> None:
    async with appliance.connect() as peer:
        await peer.chat("r1", ENDLESS, params={"max_tokens": 4000})
        await peer.until("delta")
        peer.cut()
    await until(lambda: appliance.daemon.dispatcher.running == 0)
    assert await appliance.metric("appliance_requests_total") == 1
    assert await appliance.metric("appliance_generation_tokens_total") < 1000
    await until(lambda: not appliance.daemon.connections)


async def test_a_peer_that_answers_no_ping_is_dropped() -> None:
    async with (
        running(settings(server={"heartbeat_s": 0.2})) as appliance,
        appliance.connect(autoping=False) as peer,
    ):
        await appliance.ready()
        await peer.chat("r1", ENDLESS, params={"max_tokens": 4000})
        reading = asyncio.create_task(drop_all(peer.ws))
        await until(lambda: not appliance.daemon.connections)
        await until(lambda: appliance.daemon.dispatcher.running == 0)
        await reading


async def drop_all(ws: aiohttp.ClientWebSocketResponse) -> None:
    while (await ws.receive()).type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.PING):
        pass


async def test_a_reader_that_stops_reading_is_closed_with_1013(appliance: Appliance) -> None:
    async with appliance.connect() as peer, appliance.connect() as neighbour:
        await neighbour.chat("n", ENDLESS, params={"max_tokens": 50})
        word = "x" * 20_000
        for number in range(4):
            await peer.chat(f"r{number}", word, params={"max_tokens": 4000})
        await until(lambda: any(c._closing is not None for c in appliance.daemon.connections))
        while (message := await peer.ws.receive()).type is aiohttp.WSMsgType.TEXT:
            pass
        assert message.type is aiohttp.WSMsgType.CLOSE
        assert peer.ws.close_code == 1013
        _, done = await neighbour.answer("n")
        assert done["finish_reason"] == "length"
        await until(lambda: appliance.daemon.dispatcher.running == 0)


async def test_a_reader_that_never_reads_again_is_let_go(appliance: Appliance) -> None:
    async with appliance.connect() as peer:
        for number in range(4):
            await peer.chat(f"r{number}", "x" * 20_000, params={"max_tokens": 4000})
        await until(lambda: not appliance.daemon.connections)
        assert appliance.daemon.dispatcher.running == 0


async def test_sockets_are_bounded() -> None:
    async with running(settings(server={"max_connections": 1})) as appliance, appliance.connect():
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await appliance.session.ws_connect(f"{appliance.url}/v1/ws")
        assert caught.value.status == 503
        assert caught.value.headers is not None
        assert int(caught.value.headers["Retry-After"]) >= 1


async def test_sockets_of_one_address_are_bounded() -> None:
    async with running(settings(server={"max_connections_per_client": 2})) as appliance:
        async with appliance.connect(), appliance.connect():
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await appliance.session.ws_connect(f"{appliance.url}/v1/ws")
            assert caught.value.status == 503
        await until(lambda: not appliance.daemon.connections)
        async with appliance.connect():
            pass


async def test_a_burst_of_frames_is_answered_and_costs_no_reader_its_socket(appliance: Appliance) -> None:
    async with appliance.connect() as peer:
        for number in range(1000):
            await peer.ws.send_str(f'{{"type":"ping","data":"{number}"}}')
        assert [(await peer.receive())["data"] for _ in range(1000)] == [str(number) for number in range(1000)]


async def test_a_page_that_points_its_own_name_at_us_may_not_connect(appliance: Appliance) -> None:
    port = appliance.url.rsplit(":", 1)[1]
    headers = {"Origin": f"http://evil.example:{port}", "Host": f"evil.example:{port}"}
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await appliance.session.ws_connect(f"{appliance.url}/v1/ws", headers=headers)
    assert caught.value.status == 403


@pytest.mark.parametrize(
    ("origin", "welcome"),
    [
        ("http://evil.example", False),
        ("null", False),
        ("http://[::1", False),
        ("https://kiosk.example", True),
        (None, True),
        ("own", True),
    ],
)
async def test_pages_from_elsewhere_may_not_connect(origin: str | None, welcome: bool) -> None:
    async with running(settings(server={"allowed_origins": ["https://kiosk.example"]})) as appliance:
        headers = {} if origin is None else {"Origin": appliance.url if origin == "own" else origin}
        if welcome:
            async with appliance.connect(headers=headers):
                return
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await appliance.session.ws_connect(f"{appliance.url}/v1/ws", headers=headers)
        assert caught.value.status == 403


async def test_the_subprotocol_is_selected_where_it_is_offered(appliance: Appliance) -> None:
    async with appliance.connect(protocols=("appliance.v1", "other")) as peer:
        assert peer.ws.protocol == "appliance.v1"

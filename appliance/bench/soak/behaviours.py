"""What the clients of a soak do, each for the length of one connection. Knows the protocol, no schedule."""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable

from msgspec import Struct

from appliance.bench.load import PAUSE_MAX_S, PAUSE_S
from appliance.bench.soak.bad_messages import BAD_MESSAGES, BadMessage
from appliance.bench.soak.checking import Findings
from appliance.bench.soak.peer import ANSWER_TIMEOUT_S, Door, Gone, Peer, open_peer
from appliance.bench.workload import LEAST_PROMPT_TOKENS, MAX_TURNS, Workload, messages
from appliance.protocol.websocket import Done, Error, Ping, encode
from appliance.types import Message

DEADLINE_S = 30.0  # of each request; the server must have ended it by then
GRACE_S = 10.0  # for the terminal event to arrive
PATIENCE_S = 2.0  # of a client that is going to leave anyway
LONG_PROMPT_TOKENS = 600
SLOW_BUFFER_BYTES = 2048
SLOW_PINGS = 4000  # a megabyte of pongs: far more than outbox and buffers hold
READER_TOO_SLOW, FRAME_TOO_LARGE = 1013, 1009

Behaviour = Callable[["World", random.Random], Awaitable[None]]


class World(Struct, frozen=True):
    """What all clients of a soak share."""

    doors: list[Door]
    findings: Findings
    seed: int
    numbers: "itertools.count[int]"

    def door(self, rng: random.Random, receive_buffer_bytes: int | None = None) -> Door:
        """One of the doors."""
        door = rng.choice(self.doors)
        return Door(door.address, door.local_address, receive_buffer_bytes)

    def prompt(self, tokens: int) -> list[Message]:
        """One that nobody has asked before."""
        client, turn = divmod(next(self.numbers), MAX_TURNS)
        return messages(Workload(kind="free", prompt_tokens=tokens, output_tokens=1, seed=self.seed), client, turn)


async def disconnect(world: World, rng: random.Random) -> None:
    """Leave without a word, at whatever moment."""
    async with open_peer(world.door(rng), world.findings, "disconnect") as peer:
        stage = rng.choice(["greeted", "sent", "sent", "started", "answering", "answering"])
        try:
            if stage != "greeted":
                await peer.chat("r", world.prompt(_short(rng)), rng.randint(16, 256), DEADLINE_S)
            if stage == "started":
                await peer.until_started("r", PATIENCE_S)
            if stage == "answering":
                await peer.until_deltas("r", rng.randint(1, 8), PATIENCE_S)
        except TimeoutError:
            pass  # impatient, as people are
        if rng.random() < 0.5:
            peer.reset_on_close()
        world.findings.counts["disconnects"] += 1


async def cancel(world: World, rng: random.Random) -> None:
    """Ask for a request's end while it waits, is read, or is answered, and see that it comes."""
    phase = rng.choice(["queue", "prefill", "decode"])
    async with open_peer(world.door(rng), world.findings, f"cancel in {phase}") as peer:
        tokens = _long(peer) if phase == "prefill" else _short(rng)
        await peer.chat("r", world.prompt(tokens), 256, DEADLINE_S)
        alive = True
        if phase == "prefill":
            alive = await peer.until_started("r", DEADLINE_S + GRACE_S)
        elif phase == "decode":
            alive = await peer.until_deltas("r", rng.randint(1, 4), DEADLINE_S + GRACE_S)
        if alive:
            await peer.cancel("r")
            await peer.until_end("r", DEADLINE_S + GRACE_S)
            world.findings.counts[f"cancels in {phase}"] += 1
        await peer.ping()  # and nothing of the request comes after its end
        await peer.close()


async def ordinary(world: World, rng: random.Random) -> None:
    """Ask one to three things at once, and read every answer to its end."""
    async with open_peer(world.door(rng), world.findings, "ordinary") as peer:
        ids = [f"r{number}" for number in range(rng.randint(1, 3))]
        for request_id in ids:
            await peer.chat(request_id, world.prompt(_short(rng)), rng.randint(4, 32), DEADLINE_S)
        pause_s = rng.uniform(0.05, 0.3)
        async with asyncio.timeout(DEADLINE_S + GRACE_S):
            while any(peer.checker.live(request_id) for request_id in ids):
                message = await peer.receive(DEADLINE_S + GRACE_S)
                if isinstance(message, Done):
                    _complete(world, message)
                elif isinstance(message, Error):
                    pause_s = max(pause_s, min(PAUSE_MAX_S, message.retry_after_s or PAUSE_S))
        await peer.ping()
        await peer.close()
    await asyncio.sleep(pause_s)


def _complete(world: World, done: Done) -> None:
    if done.finish_reason in ("stop", "length") and done.usage.completion_tokens:
        world.findings.counts["whole answers"] += 1
    else:
        tokens, reason = done.usage.completion_tokens, done.finish_reason
        world.findings.violation(f"ordinary: an answer ended with {reason} after {tokens} tokens")


async def slow_reader(world: World, rng: random.Random) -> None:
    """Ask for more than is read; the server must end the connection, and until then all it sent must fit."""
    door = world.door(rng, SLOW_BUFFER_BYTES)
    async with open_peer(door, world.findings, "slow reader") as peer:
        world.findings.counts["slow readers"] += 1
        try:
            await peer.chat("r", world.prompt(_short(rng)), 256, DEADLINE_S)
            async with asyncio.timeout(GRACE_S):
                for _ in range(SLOW_PINGS):
                    await peer.send(encode(Ping("x" * 256)))
            await asyncio.sleep(rng.uniform(0.5, 3))
            if rng.random() < 0.5:
                peer.reset_on_close()
                return
            async with asyncio.timeout(GRACE_S):
                while True:
                    await peer.receive(PATIENCE_S)
        except Gone as gone:
            # The close frame is lost where the server had to give up on its way out.
            told = "with 1013" if gone.code == READER_TOO_SLOW else "without a word"
            world.findings.counts[f"slow readers closed {told}"] += 1
        except TimeoutError:
            world.findings.counts["slow readers left open"] += 1


async def bad_message(world: World, rng: random.Random) -> None:
    """Say something wrong, get the error that it deserves, and go on."""
    async with open_peer(world.door(rng), world.findings, "bad message") as peer:
        bad = rng.choice(BAD_MESSAGES)
        world.findings.counts["bad messages"] += 1
        if bad.text == "":
            await _special(bad.name, world, peer, rng)
            return
        peer.checker.provoked(bad.error_id)
        await peer.send(bad.text)
        _expect(world, bad, (await peer.until_error()).code)
        await peer.ping()
        await peer.close()


async def _special(name: str, world: World, peer: Peer, rng: random.Random) -> None:
    """Those that are more than a text."""
    if name == "binary":
        peer.checker.provoked()
        await peer.ws.send_bytes(rng.randbytes(40))
        _expect(world, BadMessage(name, "", "bad_message"), (await peer.until_error()).code)
        await peer.ping()
    elif name == "duplicate id":
        await _duplicate_id(world, peer, rng)
    else:
        await _too_large(world, peer)


async def _duplicate_id(world: World, peer: Peer, rng: random.Random) -> None:
    """Two requests with one id: the second is refused while the first is live; else it is a request like any other."""
    for _ in range(2):
        await peer.chat("r", world.prompt(_short(rng)), 64, DEADLINE_S)
    peer.checker.provoked()
    refused = False
    async with asyncio.timeout(2 * (DEADLINE_S + GRACE_S)):
        while peer.checker.live("r"):
            message = await peer.receive(DEADLINE_S + GRACE_S)
            if isinstance(message, Error) and message.id is None:
                refused = True
                _expect(world, BadMessage("duplicate id", "", "duplicate_id"), message.code)
            elif isinstance(message, Done | Error) and not refused:
                peer.checker.began("r", 64)
                refused = True  # the first had ended before the second was read
    await peer.ping()


async def _too_large(world: World, peer: Peer) -> None:
    code: int | None = None
    try:
        await peer.send("x" * (peer.hello.limits.max_message_bytes + 1))
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            while True:
                await peer.receive(ANSWER_TIMEOUT_S)
    except Gone as gone:
        code = gone.code
    if code not in (FRAME_TOO_LARGE, 1006, None):  # the close frame may be lost behind what was not read
        world.findings.violation(f"too large: closed with {code} instead of {FRAME_TOO_LARGE}")


def _expect(world: World, bad: BadMessage, code: str) -> None:
    if code != bad.code:
        world.findings.violation(f"bad message ({bad.name}): answered with {code} instead of {bad.code}")


def _short(rng: random.Random) -> int:
    return rng.randint(LEAST_PROMPT_TOKENS["free"], 120)


def _long(peer: Peer) -> int:
    return min(LONG_PROMPT_TOKENS, peer.hello.limits.max_prompt_tokens // 2)

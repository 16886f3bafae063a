"""An event loop that a signal ends: what it was doing is done, and then the signal is told."""

import asyncio
import os
import signal

import pytest

from appliance.models.children import Terminated, run_until_terminated, terminated_as_exception

TIMEOUT_S = 5.0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_work_and_tears_no_callback(number: signal.Signals) -> None:
    ended = []

    async def work() -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def callback() -> None:
            os.kill(os.getpid(), number)
            done.set_result(None)

        asyncio.get_running_loop().call_soon(callback)
        try:
            await asyncio.sleep(TIMEOUT_S)
        finally:
            await asyncio.wait_for(done, TIMEOUT_S)
            ended.append(True)

    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)]
    with pytest.raises(Terminated) as raised, terminated_as_exception():
        run_until_terminated(work())
    assert raised.value.number == number
    assert ended == [True]
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)] == handlers


def test_work_without_a_signal_returns_what_it_found() -> None:
    async def work() -> int:
        return 7

    assert run_until_terminated(work()) == 7


def test_a_cancellation_of_its_own_is_no_signal() -> None:
    async def work() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        run_until_terminated(work())

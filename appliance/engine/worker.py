"""The worker process: commands in, steps, deltas out. Knows the channel and one pipeline; knows no client."""

import faulthandler
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import psutil

from appliance.engine.base import Pipeline, Prompt, RequestRejected, StepOutput
from appliance.engine.ipc import (
    Canary,
    CanaryAnswer,
    Cancel,
    Command,
    Fatal,
    Finish,
    Load,
    Loading,
    Prepare,
    Prepared,
    Ready,
    Rejected,
    Start,
    Step,
    Stop,
    TextDelta,
    WorkerChannel,
)
from appliance.engine.mapping import release_freed, release_mapped
from appliance.engine.orphan import end_with_parent
from appliance.engine.out_of_memory import is_out_of_memory
from appliance.engine.text import Answer, advance_all
from appliance.engine.warm_up import generate, warm_up
from appliance.types import EngineStats

FATAL_MAX_CHARS = 500
REPLY_WAIT_S = 0.003  # the front process answers in less than one ms; a step takes 25 to 300
REPLIES_APART_S = 0.0005  # of those to one report
REPLIES_MAX = 16  # in a row, so that who floods it with prompts holds up nobody's answer
RSS_INTERVAL_S = 1.0  # reading it costs about as much as encoding a frame

MakePipeline = Callable[[Load], tuple[Pipeline, dict[str, str]]]


def make_pipeline(load: Load) -> tuple[Pipeline, dict[str, str]]:
    """The pipeline that `load` names, and the versions of what it is made of."""
    if load.pipeline == "fake":
        from appliance.engine.fake import FakePipeline

        return FakePipeline(load), {}
    # Importing GenAI takes half a second and 100 MB: only what is wanted.
    from appliance.engine.genai.options import versions

    if load.pipeline == "llm":
        from appliance.engine.genai.one_at_a_time import OneAtATime

        return OneAtATime(load), versions()
    from appliance.engine.genai.continuous_batching import ContinuousBatching

    return ContinuousBatching(load), versions()


class Worker:
    """One pipeline and the requests that it holds."""

    def __init__(self, channel: WorkerChannel, make: MakePipeline = make_pipeline) -> None:
        self._channel = channel
        self._make = make
        self._prompts: dict[int, Prompt] = {}
        self._answers: dict[int, Answer] = {}
        self._process = psutil.Process()
        self._rss_bytes = 0
        self._rss_read_at = 0.0
        self._reply_due = False

    def run(self) -> None:
        """Serve until `stop` or end of file. Whatever the pipeline raises is reported, then raised."""
        try:
            commands: list[Command] | None = []
            while commands == []:
                commands = self._channel.receive(None)
            if commands is not None and isinstance(commands[0], Load):
                self._serve(self._load(commands[0]), commands[1:])
        except (BrokenPipeError, ConnectionResetError):
            return  # the front process is gone, and so is the reason to be here
        except Exception as error:
            said = f"{type(error).__name__}: {' '.join(str(error).split())[:FATAL_MAX_CHARS]}"
            self._channel.send(Fatal(f"out of memory: {said}" if is_out_of_memory(error) else said))
            raise

    def _load(self, load: Load) -> Pipeline:
        self._channel.send(Loading("loading"))
        begun = time.monotonic()
        pipeline, versions = self._make(load)
        loaded = time.monotonic()
        self._channel.send(Loading("warming"))
        warm_up(pipeline)
        if load.directory:
            release_mapped(Path(load.directory))
        release_freed()
        self._channel.send(
            Ready(
                versions=versions,
                max_running_requests=pipeline.limits.max_running_requests,
                kv_blocks=pipeline.limits.kv_blocks,
                block_tokens=pipeline.limits.block_tokens,
                load_s=loaded - begun,
                warm_up_s=time.monotonic() - loaded,
                rss_bytes=self._process.memory_info().rss,
                shows_prefill=pipeline.shows_prefill,
            )
        )
        return pipeline

    def _serve(self, pipeline: Pipeline, commands: list[Command] | None) -> None:
        patience = REPLIES_MAX
        while commands is not None:
            for command in commands:
                if isinstance(command, Stop):
                    return
                self._obey(pipeline, command)
            if pipeline.busy and patience and (commands or self._reply_due):
                # What was just told makes the front process start a request, or a client ask again. Without a moment's
                # patience each would miss the step that begins now: a new prompt two, as it is tokenized between them.
                patience -= 1
                wait_s, self._reply_due = REPLY_WAIT_S if self._reply_due else REPLIES_APART_S, False
                commands = self._channel.receive(wait_s)
                if commands != []:
                    continue
            if pipeline.busy:
                begun = time.monotonic()
                output = pipeline.step()
                if output is not None:
                    self._report(pipeline, output, time.monotonic() - begun)
            patience = REPLIES_MAX
            commands = self._channel.receive(0 if pipeline.busy else None)

    def _obey(self, pipeline: Pipeline, command: Command) -> None:
        match command:
            case Prepare(id=request_id, messages=messages):
                try:
                    prompt = pipeline.prepare(messages)
                except Exception as error:
                    self._reject(request_id, error)
                else:
                    self._prompts[request_id] = prompt
                    self._channel.send(Prepared(request_id, prompt.tokens))
                    self._reply_due = True
            case Start(id=request_id, sampling=sampling):
                self._reply_due = False
                try:
                    pipeline.start(request_id, self._prompts.pop(request_id), sampling)
                except Exception as error:
                    self._reject(request_id, error)
                else:
                    self._answers[request_id] = Answer(sampling.stop)
            case Cancel(id=request_id):
                self._prompts.pop(request_id, None)
                if request_id in self._answers:
                    pipeline.cancel(request_id)
            case Canary():
                # To its end, so that a request which arrives meanwhile waits for one step and is taken by any pipeline.
                produced = generate(pipeline, 1)
                release_freed()  # now, as nobody waits for it
                self._channel.send(CanaryAnswer(produced, self._process.memory_info().rss))

    def _reject(self, request_id: int, error: Exception) -> None:
        """One bad request must cost nobody else the worker, whatever it made GenAI raise; but memory that has run out
        is not its fault, and does not come back in this process. By type only: a text may quote the prompt.
        """
        if isinstance(error, MemoryError):
            raise error
        self._channel.send(Rejected(request_id, _reason(error)))

    def _report(self, pipeline: Pipeline, output: StepOutput, step_s: float) -> None:
        exhausted = [e.error for e in output.ended.values() if e.error is not None and is_out_of_memory(e.error)]
        if exhausted:
            raise MemoryError(exhausted[0])
        grown = [request_id for request_id, ids in output.tokens.items() if ids]
        for request_id in grown:
            self._answers[request_id].ids += output.tokens[request_id]
        texts = dict(zip(grown, advance_all([self._answers[i] for i in grown], pipeline.decode), strict=True))
        finished = []
        for request_id, ended in output.ended.items():
            answer = self._answers.pop(request_id)
            rest = answer.rest()
            if rest:
                texts[request_id] = texts.get(request_id, "") + rest
            reason = "stop" if answer.stopped else ended.reason
            finished.append(Finish(request_id, reason, len(answer.ids), None if answer.stopped else ended.error))
        for request_id in grown:
            answer_or_none = self._answers.get(request_id)
            if answer_or_none is not None and answer_or_none.stopped:
                pipeline.cancel(request_id)
        deltas = [TextDelta(i, text, len(output.tokens.get(i, ()))) for i, text in texts.items()]
        self._channel.send(Step(deltas, finished, self._stats(output, step_s)))
        self._reply_due = bool(finished)

    def _stats(self, output: StepOutput, step_s: float) -> EngineStats:
        now = time.monotonic()
        if now - self._rss_read_at > RSS_INTERVAL_S:
            self._rss_bytes = self._process.memory_info().rss
            self._rss_read_at = now
        return EngineStats(
            step_s=step_s,
            running=len(self._answers),
            kv_cache_usage_ratio=output.kv_cache_usage_ratio,
            kv_cache_bytes=output.kv_cache_bytes,
            rss_bytes=self._rss_bytes,
            drafted=output.drafted,
            drafted_right=output.drafted_right,
            draft_gain=output.draft_gain,
        )


def _reason(error: Exception) -> str:
    """What the client is told. What an unexpected error says may quote the prompt: only its type is told."""
    if isinstance(error, RequestRejected):
        return str(error)
    return f"the engine could not take this request ({type(error).__name__})"


def main() -> None:
    """Entry point of the child: `python -m appliance.engine.worker FD`."""
    # The supervisor ends this process, by `stop`, end of file or SIGKILL. A Ctrl-C at the terminal and
    # systemd's SIGTERM to the whole control group reach it too, and answers must outlive both.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    faulthandler.enable()
    end_with_parent()
    status = 0
    channel = WorkerChannel(socket.socket(fileno=int(sys.argv[1])))
    try:
        Worker(channel).run()
    except Exception:
        traceback.print_exc()
        status = 1
        channel.linger()
    sys.stderr.flush()
    os._exit(status)  # no native thread that still computes is waited for, and no destructor has a say


if __name__ == "__main__":
    main()

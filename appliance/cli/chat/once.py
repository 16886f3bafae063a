"""One question, one answer: standard output has the answer and nothing else. Knows no conversation."""

import json
import os
import re
import sys

import msgspec

from appliance.cli.address import in_words
from appliance.cli.chat.asking import Question, open_client
from appliance.cli.chat.conversation import Conversation
from appliance.cli.chat.screen import open_screen, statistics
from appliance.client import ClientError
from appliance.client.address import Address
from appliance.protocol.websocket import Done

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE


def ask_once(url: str | Address, conversation: Conversation, prompt: str, *, as_json: bool) -> int:
    """Ask, show, and return the exit status: 0, 1 after an error, 130 after Ctrl-C."""
    screen = open_screen()
    try:
        with open_client(url) as (thread, client):
            question = Question(client, conversation, prompt, None if as_json else screen)
            done = question.ask(thread)
        if as_json:
            print(_as_json(question.text, done), flush=True)
        else:
            screen.note(statistics(done))
    except ClientError as error:
        screen.complaint(f"appliance: {in_words(error)}")
        return 1
    except KeyboardInterrupt:
        screen.complaint("appliance: interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at exit
        return EXIT_BROKEN_PIPE
    return EXIT_INTERRUPTED if done.finish_reason == "cancelled" else 0


def _as_json(text: str, done: Done) -> str:
    """One line; DEL and C1, which JSON allows and terminals obey, are escaped."""
    values = {
        "text": text,
        "finish_reason": done.finish_reason,
        "usage": msgspec.to_builtins(done.usage),
        "timings": msgspec.to_builtins(done.timings),
    }
    line = json.dumps(values, ensure_ascii=False)
    return re.sub("[\x7f-\x9f]", lambda match: f"\\u{ord(match[0]):04x}", line)

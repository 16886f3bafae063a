"""The conversation in a terminal: prompt, line history, slash commands. Knows the client by what it is asked."""

import contextlib
import readline
from pathlib import Path

import platformdirs

from appliance.cli.address import in_words
from appliance.cli.chat.asking import LoopThread, Question, open_client
from appliance.cli.chat.conversation import Conversation
from appliance.cli.chat.screen import Screen, open_screen, statistics
from appliance.client import Client, ClientError, ConnectionLost
from appliance.client.address import Address

HISTORY_MAX_LINES = 1000
PROMPT = "> "
HELP = """\
/new                  forget the conversation and begin another
/system TEXT          set the system prompt; without TEXT: none
/set                  show how answers are sampled
/set NAME VALUE       such as /set temperature 0; default takes the server's
/save FILE            write the conversation to a new file, JSON where it ends in .json
/help                 this
/quit                 leave, as does Ctrl-D
Ctrl-C stops an answer; what was shown of it stays in the conversation."""


def converse(url: str | Address, conversation: Conversation) -> int:
    """Talk until the person leaves; the exit status: 0, or 1 where the appliance can't be reached at first."""
    screen = open_screen()
    try:
        with open_client(url) as (thread, client):
            screen.note(f"{client.hello.model.id} at {client.url} · /help lists the commands")
            _Session(thread, client, conversation, screen).run()
    except ClientError as error:
        screen.complaint(f"appliance: {in_words(error)}")
        return 1
    except KeyboardInterrupt:  # while connecting or leaving
        screen.end_text()
    return 0


class _Session:
    """The loop of question and answer."""

    def __init__(self, thread: LoopThread, client: Client, conversation: Conversation, screen: Screen) -> None:
        self._thread = thread
        self._client = client
        self._conversation = conversation
        self._screen = screen
        self._history = _LineHistory()

    def run(self) -> None:
        """Until Ctrl-D, /quit or Ctrl-C twice at the prompt."""
        interrupted = False
        while True:
            try:
                line = input(PROMPT).strip()
                interrupted = False
                self._history.save()
                if line == "/quit":
                    return
                if line.startswith("/"):
                    self._command(line)
                elif line:
                    self._answer(line)
            except EOFError:
                print()
                return
            except KeyboardInterrupt:
                print()
                if interrupted:
                    return
                interrupted = True
                self._screen.note("Ctrl-C again, or Ctrl-D, leaves")

    def _answer(self, line: str) -> None:
        question = Question(self._client, self._conversation, line, self._screen)
        try:
            done = question.ask(self._thread)
        except ConnectionLost as error:
            self._screen.complaint(f"the connection was lost: {error}; the next question connects again")
        except ClientError as error:
            self._screen.complaint(in_words(error))
        except KeyboardInterrupt:
            self._screen.note("cancelled")
        else:
            self._screen.note(statistics(done))
        self._conversation.add(line, question.text)

    def _command(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        rest = rest.strip()
        match name:
            case "/new":
                self._conversation.turns.clear()
                self._screen.note("a new conversation")
            case "/system":
                self._conversation.system = rest or None
                self._screen.note("system prompt set" if rest else "no system prompt")
            case "/set":
                self._set(rest)
            case "/save":
                self._save(rest)
            case "/help":
                self._screen.note(HELP)
            case _:
                self._screen.complaint(f"{name}: unknown command; /help lists them")

    def _set(self, rest: str) -> None:
        name, _, value = rest.partition(" ")
        if value:
            try:
                self._conversation.set(name, value.strip())
            except ValueError as error:
                self._screen.complaint(str(error))
                return
        params = self._conversation.params
        self._screen.note(" · ".join(f"{key} {params[key]}" for key in sorted(params)) or "all as the server has it")

    def _save(self, rest: str) -> None:
        if not rest:
            self._screen.complaint("/save needs a file name")
            return
        file = Path(rest).expanduser()
        try:
            self._conversation.save(file)
        except OSError as error:
            self._screen.complaint(f"{file} can't be written: {error.strerror}")
        else:
            self._screen.note(f"saved to {file}")


class _LineHistory:
    """Lines of this and earlier times, in a file that only their writer can read."""

    def __init__(self) -> None:
        self._file = platformdirs.user_state_path("appliance") / "chat_history"
        readline.set_history_length(HISTORY_MAX_LINES)
        with contextlib.suppress(OSError):
            readline.read_history_file(self._file)

    def save(self) -> None:
        """After each line: closing a terminal's window ends the program without a word."""
        with contextlib.suppress(OSError):  # a read-only home costs the history, not the chat
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            readline.write_history_file(self._file)  # both readline and libedit make it 0600

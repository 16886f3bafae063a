"""`appliance chat`: options and which of the two ways of asking is meant. Imports the client only when it runs."""

import sys
from typing import Annotated, Any

import typer

from appliance.cli.address import ConfigOption, UrlOption, default_url


def register(app: typer.Typer) -> None:
    """Add the command `chat` to `app`."""
    app.command("chat")(chat)


def chat(
    prompt: Annotated[
        str | None,
        typer.Argument(metavar="PROMPT", help="Without it: a conversation, or the prompt from standard input."),
    ] = None,
    url: UrlOption = None,
    system: Annotated[str | None, typer.Option(help="System prompt.", metavar="TEXT")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens of an answer.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2, help="0 always takes the likeliest token.")] = None,
    top_p: Annotated[
        float | None,
        typer.Option(min=0.001, max=1, help="Sample from the likeliest tokens of this share."),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(min=0, help="Sample from this many tokens; 0 means no limit."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Same seed, same sample.")] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(help="End the answer before this text; repeatable.", metavar="TEXT"),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object: text, finish_reason, usage, timings. Needs a prompt.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Talk to an appliance in the terminal.

    With PROMPT, or with a prompt on standard input: one answer to standard output, its statistics to standard
    error. Exit status 1 where there was no answer, 130 after Ctrl-C.

    Without: a conversation. Ctrl-C stops an answer, Ctrl-D leaves, /help lists the commands.
    """
    asked = _prompt(prompt, as_json=as_json)
    named: dict[str, Any] = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "seed": seed,
        "stop": stop or None,
    }
    params = {name: value for name, value in named.items() if value is not None}

    from appliance.cli.chat.conversation import Conversation

    conversation = Conversation(system=system, params=params)
    address = url or default_url(config)
    if asked is None:
        from appliance.cli.chat.interactive import converse

        raise typer.Exit(converse(address, conversation))
    from appliance.cli.chat.once import ask_once

    raise typer.Exit(ask_once(address, conversation, asked, as_json=as_json))


def _prompt(prompt: str | None, *, as_json: bool) -> str | None:
    """The one question, from the command line or standard input; None for a conversation at a terminal."""
    interactive = prompt is None and sys.stdin.isatty()
    if interactive and (as_json or not sys.stdout.isatty()):
        raise typer.BadParameter(
            "a PROMPT is needed " + ("with --json" if as_json else "where standard output is no terminal")
        )
    if prompt is None and not interactive:
        prompt = sys.stdin.buffer.read().decode("utf-8", "replace")
    if prompt is not None and not prompt.strip():
        raise typer.BadParameter("the prompt is empty")
    return prompt

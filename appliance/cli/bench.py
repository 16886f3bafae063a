"""`appliance bench`: options, files, and exit statuses of measuring, comparing and soaking. Measures nothing itself."""

import asyncio
import logging
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from appliance.cli.address import ConfigOption, UrlOption, default_url, in_words
from appliance.cli.files import require_writable, write
from appliance.cli.telling import tell_warning

if TYPE_CHECKING:
    from appliance.bench.measure import Plan
    from appliance.bench.workload import Kind
    from appliance.client.address import Address

T = TypeVar("T")

MAX_CLIENTS = 256  # server.max_connections, by default
DEFAULT_REQUESTS = 4
SELF_OPTIONS = ("own", "url", "config")
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def register(app: typer.Typer) -> None:
    """Add the command `bench` to `app`."""
    app.command("bench")(bench)


def bench(
    context: typer.Context,
    url: UrlOption = None,
    concurrency: Annotated[str, typer.Option(help="Clients at once, for each level.", metavar="N,…")] = "1,2,4,8,10",
    kind: Annotated[str, typer.Option(help="Of free, grounded, code and chat.", metavar="KIND,…")] = "free",
    prompt_tokens: Annotated[int, typer.Option(min=1, max=131_072, help="Tokens of a prompt, ±10 %.")] = 249,
    output_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 48,
    requests: Annotated[
        int | None, typer.Option(min=1, max=4000, help="Requests of each client at each level; 4 without --duration.")
    ] = None,
    duration_s: Annotated[
        float | None, typer.Option("--duration", min=0.1, max=86_400, help="Seconds for each level.", metavar="S")
    ] = None,
    think_s: Annotated[
        float, typer.Option(min=0, max=3600, help="Seconds between an answer and the next question.")
    ] = 0.0,
    shared_prefix: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the requests that begin with one common text.")
    ] = 0.0,
    warm_up: Annotated[int, typer.Option(min=0, max=90, help="Requests of each client before those that count.")] = 1,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**31 - 1, help="Same seed, same prompts; without it new ones.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything here.", metavar="FILE")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", help="Write a report here.", metavar="FILE")] = None,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(help="Measure nothing: compare two such files.", metavar="A.json B.json")
    ] = None,
    soak: Annotated[
        float | None, typer.Option(min=0.05, max=10_080, help="Churn, then tell what leaked.", metavar="MINUTES")
    ] = None,
    own: Annotated[
        bool, typer.Option("--self", help="Measure this host's own in the same short way each time; keep a history.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Measure a running appliance over its WebSocket, or see whether it survives its clients.

    Figures go to standard output, progress to standard error. Exit status 1 where nothing was answered or a soak found
    something, 78 where a file to compare is no result, 130 after Ctrl-C. With --self: 3 where the host has become
    slower, 75 where it gave way to clients.
    """
    if own:
        _refuse_others(context)
        raise typer.Exit(_self(url or default_url(config)))
    if compare is not None:
        if soak is not None or url is not None:
            raise typer.BadParameter("--compare takes two files and measures nothing; leave --soak and --url out")
        _compare(*compare)
        return
    require_writable(json_file, html_file)
    address = url or default_url(config)
    if soak is not None:
        if html_file is not None:
            raise typer.BadParameter("a soak has no --html report; take --json")
        raise typer.Exit(_soak(address, soak, seed, json_file))
    from appliance.bench.measure import Plan, new_seed

    plan = Plan(
        url=address,
        kinds=_kinds(kind, prompt_tokens, shared_prefix),
        concurrency=_concurrency(concurrency),
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        shared_prefix=shared_prefix,
        think_s=think_s,
        requests=DEFAULT_REQUESTS if requests is None and duration_s is None else requests,
        duration_s=duration_s,
        warm_up=warm_up,
        seed=new_seed() if seed is None else seed,
    )
    raise typer.Exit(_measure(plan, json_file, html_file))


# ---- options -----------------------------------------------------------------------------------------------


def _kinds(text: str, prompt_tokens: int, shared_prefix: float) -> "list[Kind]":
    from appliance.bench.workload import KINDS, LEAST_PROMPT_TOKENS

    kinds = [kind for kind in KINDS if kind in _words(text)]
    unknown = sorted(set(_words(text)) - set(KINDS))
    if unknown or not kinds:
        raise typer.BadParameter(f"--kind {text!r}: expected some of {', '.join(KINDS)}")
    for kind in kinds:
        least = LEAST_PROMPT_TOKENS[kind] * (2 if shared_prefix else 1)
        if prompt_tokens < least:
            shared = " with a shared prefix" if shared_prefix else ""
            raise typer.BadParameter(f"--prompt-tokens {prompt_tokens}: kind {kind}{shared} needs at least {least}")
    return kinds


def _concurrency(text: str) -> list[int]:
    counts = [int(word) for word in _words(text) if word.isdecimal() and 1 <= int(word) <= MAX_CLIENTS]
    if not counts or len(counts) != len(_words(text)):
        raise typer.BadParameter(f"--concurrency {text!r}: expected numbers from 1 to {MAX_CLIENTS}, such as 1,2,4")
    return list(dict.fromkeys(counts))


def _refuse_others(context: typer.Context) -> None:
    """What is measured with --self is always the same."""
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if source is not None and source.name == "COMMANDLINE" and option.name not in SELF_OPTIONS:
            raise typer.BadParameter(f"--self measures the same each time; leave {option.opts[0]} out")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


# ---- what it does ------------------------------------------------------------------------------------------


def _measure(plan: "Plan", json_file: Path | None, html_file: Path | None) -> int:
    from appliance.bench.html import html_report
    from appliance.bench.measure import measure
    from appliance.bench.progress import showing_progress
    from appliance.bench.results import encode_result
    from appliance.bench.tables import print_result

    with showing_progress() as progress:
        result = _run(measure(plan, progress))
    if result is None:
        return EXIT_INTERRUPTED
    print_result(result, sys.stdout)
    write(json_file, encode_result(result))
    if html_file is not None:
        write(html_file, html_report(result).encode())
    return 0


def _self(url: "str | Address") -> int:
    from msgspec.structs import replace

    from appliance.bench.progress import showing_progress
    from appliance.bench.self_benchmark import measure_self
    from appliance.cli.self_benchmark import keep, read_earlier, tell_verdict
    from appliance.observability.self_benchmark import judge

    earlier = read_earlier()
    with showing_progress() as progress:
        record = _run(measure_self(url, progress))
    if record is None:
        return EXIT_INTERRUPTED
    record = replace(record, verdict=judge(record, earlier))
    return tell_verdict(record, keep(record))


def _compare(a: Path, b: Path) -> None:
    from appliance.bench.compare import compare
    from appliance.bench.results import read_result
    from appliance.bench.tables import print_comparison

    comparison = compare(read_result(a), read_result(b))
    print_comparison(comparison, sys.stdout)
    for warning in comparison.warnings:
        tell_warning(warning)


def _soak(url: "str | Address", minutes: float, seed: int | None, json_file: Path | None) -> int:
    import msgspec

    from appliance.bench.measure import new_seed
    from appliance.bench.progress import showing_progress
    from appliance.bench.soak import SoakPlan, soak
    from appliance.bench.soak.report import print_report

    logging.getLogger("asyncio").setLevel(logging.ERROR)  # or over TLS it tells of each connection that is reset here
    plan = SoakPlan(url=url, minutes=minutes, seed=new_seed() if seed is None else seed)
    with showing_progress() as progress:
        report = _run(soak(plan, progress))
    if report is None:
        return EXIT_INTERRUPTED
    print_report(report, sys.stdout)
    write(json_file, msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    return 1 if report.problems else 0


def _run(work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`; None after Ctrl-C. Raises ApplianceError, with the remedy where nobody is there."""
    from appliance.bench.errors import ServerUnreadable
    from appliance.client import ClientError

    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        print("appliance: interrupted", file=sys.stderr)
        return None
    except ClientError as error:
        raise ServerUnreadable(in_words(error)) from error

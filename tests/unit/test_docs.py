"""The docs name every setting, metric, error code and command that exists, and none that does not."""

import inspect
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from prometheus_client.metrics_core import Metric
from typer.core import TyperGroup
from typer.main import get_command

from appliance import errors
from appliance.cli import app
from appliance.config.changes import LIVE
from appliance.config.settings import Settings
from appliance.observability.metrics import Metrics

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SUFFIXES = {"counter": "_total", "info": "_info"}  # what the exposition adds to the name of a family

CODE = re.compile(r"`([^`\n]+)`")
FENCE = re.compile(r"^```[a-z]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


def text_of(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


def table_rows(page: str, first_column: str) -> Iterator[list[str]]:
    """The cells of each row of the page's tables whose header begins with `first_column`."""
    wanted = None
    for line in text_of(page).splitlines():
        if not line.startswith("|"):
            wanted = None
            continue
        cells = [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if wanted is None:
            wanted = cells[0].lower() == first_column
        elif wanted and set(cells[0]) - set(":-"):
            yield cells


def plain(cell: str) -> str:
    return cell.strip("`")


def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    names = [name for name, _ in pairs]
    assert len(names) == len(set(names)), f"listed twice: {sorted({n for n in names if names.count(n) > 1})}"
    return dict(pairs)


def settings() -> dict[str, object]:
    """Default by "section.key"."""
    return {
        f"{section.name}.{setting.name}": setting.default
        for section in msgspec.structs.fields(Settings)
        for setting in msgspec.structs.fields(section.type)
    }


def metrics() -> dict[str, str]:
    """Type by the name that a scrape shows."""
    families: Iterator[Metric] = iter(Metrics().registry.collect())
    return {family.name + SUFFIXES.get(family.type, ""): family.type for family in families}


def codes() -> dict[str, int]:
    """HTTP status by error code."""
    classes = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, errors.RequestError)]
    return {cls.code: cls.http_status for cls in classes if not cls.__subclasses__()}  # the others are never raised


def commands() -> dict[str, object]:
    """The tree of commands: a dict for a group, None for a command."""

    def tree(command: object) -> dict[str, object] | None:
        if not isinstance(command, TyperGroup):
            return None
        return {name: tree(below) for name, below in command.commands.items() if not below.hidden}

    return tree(get_command(app)) or {}


def paths(tree: dict[str, object], prefix: str = "appliance") -> Iterator[str]:
    for name, below in tree.items():
        if isinstance(below, dict):
            yield from paths(below, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}"


def code_lines(text: str) -> Iterator[str]:
    """Inline code, and the lines of fenced blocks."""
    for block in FENCE.findall(text):
        yield from block.splitlines()
    yield from CODE.findall(FENCE.sub("", text))


@pytest.fixture(params=PAGES, ids=lambda page: page.name)
def page(request: pytest.FixtureRequest) -> Path:
    path = request.param
    assert isinstance(path, Path)
    return path


def test_the_settings_in_the_docs_are_those_that_exist_with_their_defaults() -> None:
    rows = table_rows("docs/configuration.md", "setting")
    documented = unique([(plain(row[0]), tomllib.loads(f"default = {plain(row[1])}")["default"]) for row in rows])
    existing = {name: list(value) if isinstance(value, tuple) else value for name, value in settings().items()}
    assert documented == existing


def test_the_settings_that_a_running_daemon_takes_up_are_told() -> None:
    documented = [plain(row[0]) for row in table_rows("docs/configuration.md", "live setting")]
    assert sorted(documented) == sorted(LIVE)


def test_the_metrics_in_the_docs_are_those_that_exist_with_their_types() -> None:
    documented = unique([(plain(row[0]), plain(row[1])) for row in table_rows("docs/metrics.md", "metric")])
    assert documented == metrics()


def test_the_error_codes_in_the_docs_are_those_that_exist_with_their_http_status() -> None:
    documented = unique([(plain(row[0]), int(plain(row[1]))) for row in table_rows("docs/protocol.md", "code")])
    assert documented == codes()


def test_every_command_has_a_heading_or_a_row_in_the_docs() -> None:
    text = text_of("docs/cli.md")
    headings = [code for heading in HEADING.findall(FENCE.sub("", text)) for code in CODE.findall(heading)]
    rows = [code for row in table_rows("docs/cli.md", "command") for code in CODE.findall(row[0])]
    documented = {re.split(r" [^a-z]", code)[0] for code in headings + rows if code.startswith("appliance ")}
    assert documented == set(paths(commands()))


def test_a_page_names_no_command_that_does_not_exist(page: Path) -> None:
    unknown = []
    for line in code_lines(page.read_text("utf-8")):
        called = re.match(r"(?:\$ |sudo |.*\.venv/bin/)*appliance((?: [a-z][a-z-]*)+)", line)
        tree: object = commands()
        for word in called[1].split() if called else []:
            if not isinstance(tree, dict):
                break  # an argument
            if word not in tree:
                unknown.append(line)
                break
            tree = tree[word]
    assert unknown == []


def test_a_page_names_no_setting_that_does_not_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    known = settings()
    sections = "|".join({name.partition(".")[0] for name in known})
    named = re.findall(rf"`((?:{sections})\.(?!py\b|toml\b)[a-z_]+)", text)
    named += [".".join(pair).lower() for pair in re.findall(r"\bAPPLIANCE__([A-Z]+)__([A-Z_]+)", text)]
    assert sorted(set(named) - set(known)) == []


def test_a_page_names_no_metric_that_does_not_exist(page: Path) -> None:
    histograms = {name for name, kind in metrics().items() if kind == "histogram"}
    known = set(metrics()) | {name + suffix for name in histograms for suffix in ("_bucket", "_count", "_sum")}
    named = set(re.findall(r"\bappliance_[a-z0-9_]+", page.read_text("utf-8")))
    assert sorted(named - known) == []


def test_a_page_names_no_make_target_that_does_not_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))
    named = {m[1] for line in code_lines(page.read_text("utf-8")) if (m := re.match(r"(?:\$ )?make ([a-z-]+)", line))}
    assert sorted(named - targets) == []


def test_the_readme_names_its_two_commands() -> None:
    named = set(code_lines(text_of("README.md")))
    assert {"make serve", "make test"} <= named


def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    broken = []
    for link in LINK.findall(FENCE.sub("", page.read_text("utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = HEADING.findall(FENCE.sub("", page.read_text("utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

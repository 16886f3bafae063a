"""The text that ships with the appliance: well formed, varied, and nothing of one set in the other."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from appliance.errors import ConfigError
from appliance.models import texts
from appliance.models.shipped import shipped_models
from appliance.models.texts import Sample, read_shipped, spread

WORDS = 8
HAN = 20
LEAST_CHARACTERS = 110  # Chinese; some 60 tokens
MOST_CHARACTERS = 900

Name = Literal["calibration", "held-out"]
SETS: tuple[Name, ...] = ("calibration", "held-out")


def content(text: Sample) -> str:
    return text.text or "\n".join(message.content for message in text.messages)


def runs(text: str) -> set[str]:
    """Every run of eight words, and of twenty Chinese characters, without what stands between them."""
    words = re.findall(r"\w+", text.lower())
    han = re.sub(r"[^\u4e00-\u9fff]", "", text)
    return {" ".join(words[at : at + WORDS]) for at in range(len(words) - WORDS + 1)} | {
        han[at : at + HAN] for at in range(len(han) - HAN + 1)
    }


@pytest.mark.parametrize("name", SETS)
def test_each_line_is_one_json_object_in_utf_8(name: Name) -> None:
    raw = (shipped_models() / "text" / f"{name}.jsonl").read_bytes()
    assert raw.endswith(b"\n")
    lines = raw.decode("utf-8", "strict").splitlines()
    assert len(lines) == raw.count(b"\n")  # no other character that ends a line
    assert "\ufffd" not in raw.decode()
    for line in lines:
        assert isinstance(json.loads(line), dict)
    assert len(read_shipped(name)) == len(lines)


@pytest.mark.parametrize("name", SETS)
def test_a_sample_is_a_text_or_a_conversation_in_turns(name: Name) -> None:
    for text in read_shipped(name):
        assert bool(text.text) != bool(text.messages)
        roles = [message.role for message in text.messages]
        if roles:
            turns = roles[1:] if roles[0] == "system" else roles
            assert turns == ["user", "assistant"] * (len(turns) // 2), content(text)[:60]
            assert all(message.content.strip() == message.content for message in text.messages)
        assert LEAST_CHARACTERS < len(content(text)) < MOST_CHARACTERS, content(text)[:60]


def test_the_calibration_text_has_all_kinds_and_languages() -> None:
    texts = read_shipped("calibration")
    assert len(texts) >= 280
    kinds = Counter(text.kind for text in texts)
    assert kinds.keys() == {"chat", "code", "json", "table", "maths", "prose", "instruction"}
    assert kinds["chat"] >= 120
    assert kinds["code"] >= 50
    assert kinds["json"] >= 25
    assert min(kinds.values()) >= 10
    languages = Counter(text.language for text in texts)
    assert languages["zh"] >= 80
    assert languages["en"] >= 80
    assert sum(languages[code] for code in ("de", "fr", "es", "it", "pt", "nl", "pl", "sv", "cs", "ru", "el")) >= 20
    assert len([text for text in texts if text.kind == "code" and text.language not in ("zh", "en")]) >= 50


def test_the_held_out_text_has_thirty_of_each_language() -> None:
    texts = read_shipped("held-out")
    assert Counter(text.language for text in texts) == {"zh": 30, "en": 30, "code": 30, "json": 30}
    assert {text.kind for text in texts} == {"chat", "prose", "code", "json"}


def test_no_two_samples_share_a_run_of_words() -> None:
    """Neither of one set with the other, which would measure what was learnt by heart, nor within one."""
    seen: dict[str, str] = {}
    for where, found in _all_runs():
        for run in found:
            assert run not in seen, f"{where} and {seen[run]} both have {run!r}"
        seen.update(dict.fromkeys(found, where))


def _all_runs() -> Iterator[tuple[str, set[str]]]:
    for number, text in enumerate(read_shipped("calibration"), 1):
        yield f"calibration, line {number}", runs(content(text))
    for number, text in enumerate(read_shipped("held-out"), 1):
        yield f"held-out, line {number}", runs(content(text))


def test_some_of_the_text_are_of_all_kinds() -> None:
    texts = read_shipped("calibration")
    some = spread(texts, 64)
    assert len(some) == 64
    assert len(set(some)) == 64
    assert {text.kind for text in some} == {text.kind for text in texts}
    assert {"zh", "en"} < {text.language for text in some}
    assert spread(texts, 10_000) == texts


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "can't be read: No such file"), (b'{"kind": "chat"}\n', "line 1: "), (b"", "0 samples")],
)
def test_a_damaged_installation_is_told_with_its_file(
    content: bytes | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "shipped_models", lambda: tmp_path)
    file = tmp_path / "text" / "calibration.jsonl"
    file.parent.mkdir()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=f"^{file}.*{said}.*; install the appliance again$"):
        read_shipped("calibration")

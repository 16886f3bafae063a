"""Secrets out of texts and settings: by their names, by their shapes, and wherever one that is known turns up again."""

import re
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

MARK = "[redacted]"
LEAST_CHARS = 6  # of a known secret: shorter ones are words, and would go everywhere

# Words of a name that mean a secret where the value is a text; numbers, such as max_tokens, never are.
_DEEP = frozenset({"secret", "secrets", "token", "tokens", "password", "passwords", "credential", "credentials"})
_WORDS = _DEEP | {"passwd", "pwd", "passphrase", "apikey", "apikeys", "key", "keys", "private", "cookie"}
_WORDS |= {"authorization", "auth", "bearer", "dsn"}
_PUBLIC = ("trusted_keys", "tls_key_file")  # Ed25519 public keys; a path
# What an operator has a model told; no client's, and nobody's business all the same.
_PROMPT = re.compile(r"(prompts?|instructions|canary_expect)\Z|\Apersonas")

_NAMED = re.compile(
    r"passw(?:or)?d|passphrase|pass(?![a-z])|secret|token(?!iz)|apikey|[_-]key(?![a-z])|credential", re.IGNORECASE
)
_NO_SECRET = re.compile(r"[\"']?(?:[-+]?\d[\d.eE+-]*|true|false|null|none|)[\"']?\Z", re.IGNORECASE)
_PATHS = ("loadcredential", "importcredential")  # systemd: names and paths, no values

# Each of these takes time in proportion to the text, whatever is in it: runs have a bound, or are never tried twice.
_ASSIGNED = re.compile(r"(?<![\w.-])([\w.-]++)[\"']?[ \t]{0,8}[:=][ \t]{0,8}")
_VALUE = re.compile(r"\"([^\"\n]{0,4096})\"|'([^'\n]{0,4096})'|([^\s,;\"'\[\]{}()]++)")
_KEY_BEGINS, _KEY_ENDS = (rf"-----{side} [A-Z0-9 ]{{0,40}}PRIVATE KEY-----" for side in ("BEGIN", "END"))
_SHAPES = (
    re.compile(rf"{_KEY_BEGINS}.*?(?:{_KEY_ENDS}|\Z)", re.DOTALL),
    re.compile(r"(?<![\w-])eyJ[\w-]{8,4096}+\.[\w-]{8,8192}+\.[\w-]{0,4096}"),  # JSON Web Tokens
    re.compile(r"\b(?:hf_|gh[opsu]_|github_pat_|glpat-|sk-|xox[abprs]-|AKIA|AIza)[A-Za-z0-9_-]{12,}"),
)
_URL_USER = re.compile(r"\b([a-z][a-z0-9+.-]{1,30}://)[^/\s\"'@]{1,1024}@", re.IGNORECASE)
_URL_QUERY = re.compile(
    r"([?&][\w.-]{0,64}?(?:token|key|secret|sig|signature|password|auth|credential)[\w.-]{0,64}=)[^&\s\"'<>]+",
    re.IGNORECASE,
)
_OPTION = re.compile(
    r"(?<![\w-])(--[\w-]{0,64}?(?:token|password|passphrase|secret|key)[\w-]{0,64}[ \t]{1,8})[^\s\"'-][^\s\"']*",
    re.IGNORECASE,
)
_UNIT_CREDENTIAL = re.compile(r"\b(SetCredential(?:Encrypted)?=)(?:[^\n]*\\\n)*[^\n]*")  # with continuation lines
_HEADER = re.compile(r"\b(bearer|basic|digest)([ \t]{1,8})[\w.~+/=-]{8,}", re.IGNORECASE)
_COOKIE = re.compile(r"\b((?:set-)?cookie:[ \t]{0,8})[^\r\n]+", re.IGNORECASE)


def is_secret(name: str) -> bool:
    """Whether a text under this name is a secret."""
    if name.lower().endswith(_PUBLIC):
        return False
    spaced = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name)
    return not _WORDS.isdisjoint(re.split(r"[^a-z0-9]+", spaced.lower()))


def secrets_in(tree: object, name: str = "", *, deep: bool = False) -> Iterator[str]:
    """The texts of `tree` under names that mean a secret, and passwords of URLs wherever they are."""
    deep = deep or name.lower() in _DEEP
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from secrets_in(value, str(key), deep=deep)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from secrets_in(value, name, deep=deep)
    elif isinstance(tree, str):
        if deep or is_secret(name):
            yield tree
        for user in re.findall(r"://([^/\s\"'@]+)@", tree):
            yield user.rpartition(":")[2]


class Redactor:
    """Takes secrets out, and counts."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        """`known`: texts that are to be found nowhere; those below LEAST_CHARS are left to names and shapes."""
        values = {value.strip() for value in known}
        values = {form for value in values if len(value) >= LEAST_CHARS for form in _forms(value)}
        longest_first = sorted(values, key=lambda value: (-len(value), value))
        self._known = re.compile("|".join(map(re.escape, longest_first))) if values else None
        self.count = 0
        """What was taken out so far."""

    def tree(self, value: object, name: str = "", *, deep: bool = False) -> Any:
        """The same tree of mappings, lists and scalars without its secrets, and with prompts as their lengths."""
        deep = deep or name.lower() in _DEEP
        if isinstance(value, Mapping):
            return {str(key): self.tree(below, str(key), deep=deep) for key, below in value.items()}
        if isinstance(value, list | tuple):
            return [self.tree(below, name, deep=deep) for below in value]
        if not isinstance(value, str) or not value:
            return value
        if deep or is_secret(name):
            return self._mark()
        if _PROMPT.search(name.lower()):
            return f"[{len(value)} characters]"
        return self.text(value)

    def text(self, text: str) -> str:
        """`text` without secrets: known ones, then by shape, then by what stands before them."""
        if self._known is not None:
            text = self._known.sub(lambda _: self._mark(), text)
        for shape in _SHAPES:
            text = shape.sub(lambda _: self._mark(), text)
        text = _URL_USER.sub(lambda match: f"{match[1]}{self._mark()}@", text)
        text = _URL_QUERY.sub(lambda match: f"{match[1]}{self._mark()}", text)
        text = _UNIT_CREDENTIAL.sub(lambda match: f"{match[1]}{self._mark()}", text)
        text = _OPTION.sub(lambda match: f"{match[1]}{self._mark()}", text)
        text = _HEADER.sub(lambda match: f"{match[1]}{match[2]}{self._mark()}", text)
        text = _COOKIE.sub(lambda match: f"{match[1]}{self._mark()}", text)
        return "".join(self._assigned(text))

    def _assigned(self, text: str) -> Iterator[str]:
        """The pieces of `text`, without values that stand behind names of secrets."""
        done, passed = 0, 0
        for match in _ASSIGNED.finditer(text):
            if match.start() < passed or not _NAMED.search(match[1]) or match[1].lower().endswith(_PUBLIC):
                continue
            if match[1].lower().startswith(_PATHS):
                passed = _end_of_line(text, match.end())
                continue
            value = _VALUE.match(text, match.end())
            if value is None or MARK in value[0] or _NO_SECRET.match(value[0].rstrip(".:")):
                continue
            group = value.lastindex or 0
            yield text[done : value.start(group)]
            yield self._mark()
            done = passed = value.end(group)
        yield text[done:]

    def _mark(self) -> str:
        self.count += 1
        return MARK


def _end_of_line(text: str, place: int) -> int:
    found = text.find("\n", place)
    return len(text) if found < 0 else found


def _forms(value: str) -> set[str]:
    """As it stands, and as a URL or a JSON text has it."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return {value, quote(value, safe=""), urllib.parse.quote_plus(value), escaped}

"""Reading a report's HTML back: structure, and every number with the cell and metric it claims to be."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

from bench.report.assets import digest

VOID = frozenset({"meta", "link", "br", "img", "input", "hr", "path", "use", "rect", "line", "circle", "stop", "col"})
SCALE = {"⁰": "0", "¹": "1", "²": "2", "³": "3", "⁴": "4", "⁵": "5", "⁶": "6", "⁷": "7", "⁸": "8", "⁹": "9", "⁻": "-"}


@dataclass
class Number:
    """A number on the page: `cell` is the key of its row's cell."""

    cell: str
    source: str
    metric: str
    statistic: str
    text: str


@dataclass
class Page(HTMLParser):
    """What the page is made of. Feed it once; `problems` are nesting errors."""

    text: str
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    headings: list[tuple[int, str]] = field(default_factory=list)
    numbers: list[Number] = field(default_factory=list)
    tables: list[list[list[str]]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    scripts: list[tuple[str | None, str]] = field(default_factory=list)
    """Type and text of each script element."""

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self._heading: list[str] | None = None
        self.feed(self.text)
        self.close()
        self.problems += [f"<{tag}> is never closed" for tag, _ in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember the element; open it unless it is void."""
        known = dict(attrs)
        self.tags.append((tag, known))
        if known.get("id"):
            self.ids.append(str(known["id"]))
        if re.fullmatch(r"h[1-6]", tag):
            self._heading = []
        if tag == "table":
            self.tables.append([])
        if tag == "tr" and self.tables:
            self.tables[-1].append([])
        if tag in {"td", "th"} and self.tables and self.tables[-1]:
            self.tables[-1][-1].append("")
        if tag == "script":
            self.scripts.append((known.get("type"), ""))
        if tag not in VOID:
            self._open.append((tag, known))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A self-closed element, as SVG has them."""
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """Close the innermost element, which must be this one."""
        if not self._open or self._open[-1][0] != tag:
            self.problems.append(f"</{tag}> closes {self._open[-1][0] if self._open else 'nothing'}")
            return
        self._open.pop()
        if re.fullmatch(r"h[1-6]", tag) and self._heading is not None:
            self.headings.append((int(tag[1]), "".join(self._heading)))
            self._heading = None

    def handle_data(self, data: str) -> None:
        """Collect text of headings, table cells and marked numbers."""
        if self._heading is not None:
            self._heading.append(data)
        names = [tag for tag, _ in self._open]
        if names and names[-1] == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        if ("td" in names or "th" in names) and self.tables and self.tables[-1] and self.tables[-1][-1]:
            self.tables[-1][-1][-1] += data
        if self._open and "data-metric" in self._open[-1][1]:
            marked = self._open[-1][1]
            owner = next(attrs["data-cell"] for _, attrs in reversed(self._open) if "data-cell" in attrs)
            self.numbers.append(
                Number(
                    cell=str(owner),
                    source=str(marked["data-source"]),
                    metric=str(marked["data-metric"]),
                    statistic=str(marked["data-statistic"]),
                    text=data,
                )
            )

    @property
    def own_text(self) -> str:
        """The page without the scripts that run: what comes from recordings is in here."""
        text = self.text
        for kind, script in self.scripts:
            text = text.replace(script, "") if kind is None else text
        return text

    @property
    def plots(self) -> list[dict[str, Any]]:
        """The charts' data as the page's script reads them."""
        found: list[dict[str, Any]] = next(
            (json.loads(text) for kind, text in self.scripts if kind == "application/json"), []
        )
        return found

    def check_scripts(self) -> None:
        """Scripts that run are exactly those whose digests the policy names, data are inert, and no handler is set."""
        policy = next(attrs["content"] for tag, attrs in self.tags if tag == "meta" and "http-equiv" in attrs)
        running = [text for kind, text in self.scripts if kind is None]
        allowed = re.findall(r"'sha256-([^']+)'", str(policy))
        assert [digest(text) for text in running] == allowed
        assert "unsafe" not in str(policy).replace("style-src 'unsafe-inline'", "")
        assert {kind for kind, _ in self.scripts} <= {None, "application/json"}
        assert not [name for _, attrs in self.tags for name in attrs if name.startswith("on")]


def parse_number(text: str) -> tuple[float, float]:
    """A shown number and half the unit of its last digit, signs and units removed; per cent stays per cent."""
    plain = re.sub(r"[$€£,%\s]", "", text).replace("−", "-").replace("±", "").replace("+", "")
    mantissa, _, power = plain.partition("×10")
    exponent = int("".join(SCALE[letter] for letter in power)) if power else 0
    decimals = len(mantissa.partition(".")[2])
    return float(mantissa) * 10.0**exponent, 0.5 * 10.0 ** (exponent - decimals)


def shown_value(number: Number, value: float) -> float:
    """The tidy table's value in the unit the page shows it in."""
    return value * {"perplexity_change": 100.0, "size_bytes": 1e-6}.get(number.metric, 1.0)

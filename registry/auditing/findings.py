"""What an audit found: one finding a damaged object, and the result over all.

Findings are gathered, not raised: one damage must not hide the next. Knows nothing of how they are found.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from watermark.errors import WeightmarkError

MAX_FINDINGS = 1000


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: a stable code, the index of the log entry where there is one, and a sentence."""

    code: str
    index: int | None
    text: str


@dataclass(frozen=True)
class AuditResult:
    """Whether the log is whole and honest, as far as it was seen.

    `size` and `root` (hex) are what the log signed, 0 and empty where nothing signed could be read; `entries_checked`
    counts the entries that are under that root and whose own signature verified.
    """

    whole: bool
    size: int
    root: str
    entries_checked: int
    findings: tuple[Finding, ...]


@dataclass
class Findings:
    """Gathers findings while an audit runs; each once, at most a thousand."""

    found: dict[Finding, None] = field(default_factory=dict)

    def add(self, code: str, text: str, index: int | None = None) -> None:
        """Note one thing that is wrong."""
        if len(self.found) < MAX_FINDINGS:
            self.found.setdefault(Finding(code, index, text))

    @contextmanager
    def noting(self, code: str, index: int | None = None) -> Iterator[None]:
        """Turn an error of ours that ends the block into a finding."""
        try:
            yield
        except WeightmarkError as error:
            self.add(code, str(error), index)

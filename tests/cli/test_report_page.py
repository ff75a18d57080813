"""The page of `check --report`: complete, harmless whatever the names in it, and the same verdict as everywhere."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import cli.verdict as job
from cli.check import CheckRequest
from cli.report_page import write_check_page
from cli.verdict import CheckResult

HOSTILE = '"><script>alert(1)</script> & $x^2$ \x1b[31m'


def result(**changed: object) -> CheckResult:
    values: dict[str, object] = {
        "verdict": "ours",
        "release": "ab" * 16,
        "recipient": "Globex",
        "log2_p": -900.5,
        "log2_p_adjusted": -897.0,
        "tests": (job.TestResult("blind", -900.5, 22_000_000, "z = 35"), job.TestResult("<b>x</b>", 0.0, 7, HOSTILE)),
        "order": "self-asserted",
        "suspect_digest": "cd" * 32,
        "suspect_kind": "file",
        "reasons": ("a reason of its own",),
        "name": "minilm",
        "version": "2",
        "copy": "ef" * 16,
        "matched_tensors": 40,
        "total_tensors": 41,
        "similarity": 0.958,
        "excluded": (("d" * 64, "one dimension"), ("e" * 64, "one dimension")),
        "threshold": -128.0,
        "multiplicity": (("statistics", 9), ("releases", 1)),
        "evidence_path": None,
        "case": None,
        "expect": None,
    }
    return CheckResult(**(values | changed))  # type: ignore[arg-type]


def page(folder: Path, answer: CheckResult, suspect: str = "suspect.safetensors") -> str:
    target = folder / "report.html"
    write_check_page(target, CheckRequest(folder, suspect), answer)
    return target.read_text()


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def read(text: str) -> Elements:
    elements = Elements()
    elements.feed(text)
    return elements


def test_the_page_says_what_the_command_says(tmp_path):
    seen = read(page(tmp_path, result()))
    for part in (
        "OURS",
        "derives from minilm 2, the copy given to Globex",
        "-897.0",
        "9 statistics, 1 release",
        "0.958",
    ):
        assert part in seen.text, part
    assert [tag for tag, _ in seen.tags].count("svg") == 1
    assert re.search(r"one dimension\s*2", seen.text)


@pytest.mark.parametrize("field", ["recipient", "name", "suspect_kind"])
def test_names_of_strangers_do_nothing(tmp_path, field):
    seen = read(page(tmp_path, result(**{field: HOSTILE, "reasons": (HOSTILE,)}), suspect=HOSTILE))
    assert {tag for tag, _ in seen.tags}.isdisjoint({"script", "b", "img", "iframe", "link", "object"})
    assert "alert(1)" in seen.text  # shown as text
    for tag, attributes in seen.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        reference = attributes.get("href") or attributes.get("src") or attributes.get("xlink:href") or "#"
        assert reference.startswith("#"), (tag, reference)
    policy = next(a["content"] for tag, a in seen.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy


def test_a_verdict_without_tests_has_a_page_without_a_plot(tmp_path):
    answer = result(
        verdict="no-power",
        release=None,
        recipient=None,
        log2_p=None,
        log2_p_adjusted=None,
        tests=(),
        similarity=None,
        excluded=(),
        multiplicity=(),
        name=None,
        version=None,
        copy=None,
    )
    seen = read(page(tmp_path, answer))
    assert "NO POWER" in seen.text
    assert "OURS" not in seen.text
    assert "svg" not in {tag for tag, _ in seen.tags}


def test_the_same_result_gives_the_same_plot(tmp_path):
    first, second = (re.search(r"<svg.*</svg>", page(tmp_path, result()), re.S) for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.group() == second.group()

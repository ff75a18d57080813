from __future__ import annotations

import pytest

from registry.documents.materials import BASE, DATASET
from registry.documents.model_card import MAX_FRONT_MATTER_BYTES, ModelCard, read_model_card
from tests.registry.documents.facts import CARD
from watermark.errors import DocumentError, LimitError


def card(*lines: str) -> bytes:
    return "\n".join(["---", *lines, "---", "# text", ""]).encode()


def test_what_documents_use_is_read() -> None:
    read = read_model_card(CARD)
    assert [(one.role, one.name, one.relation) for one in read.materials] == [
        (BASE, "nreimers/MiniLM-L6-H384-uncased", "finetune"),
        (DATASET, "s2orc", None),
        (DATASET, "org/ms_marco", None),
    ]
    assert read.materials[0].purl == "pkg:huggingface/nreimers/MiniLM-L6-H384-uncased"
    assert (read.licence, read.task, read.library) == ("apache-2.0", "sentence-similarity", "sentence-transformers")
    assert read.languages == ("en", "de")


def test_windows_lines_and_a_byte_order_mark_are_read() -> None:
    assert read_model_card(b"\xef\xbb\xbf" + CARD.replace(b"\n", b"\r\n")) == read_model_card(CARD)


@pytest.mark.parametrize(
    "readme", [b"", b"# no front matter", b"text\n---\nlicense: mit\n---\n", b"---\nlicense: mit\n"]
)
def test_a_readme_without_front_matter_says_nothing(readme: bytes) -> None:
    assert read_model_card(readme) == ModelCard()


def test_another_licence_goes_by_its_own_name() -> None:
    read = read_model_card(card("license: other", "license_name: acme-1", "license_link: https://example.com/l"))
    assert (read.licence, read.licence_link) == ("acme-1", "https://example.com/l")


def test_values_of_other_kinds_are_passed_over() -> None:
    read = read_model_card(
        card("license: [mit]", "base_model: {a: b}", "datasets: [7, 'x y', ../../etc, ok]", "tags: 3")
    )
    assert [one.name for one in read.materials] == ["ok"]
    assert read.licence is None
    assert read.tags == ()


def test_dates_stay_text() -> None:
    assert read_model_card(card("license: 2024-01-01")).licence == "2024-01-01"


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (["a: &x [1]", "b: *x"], "alias"),
        (["license: mit", "license: gpl"], "twice"),
        (["a: !!python/object/apply:os.system ['true']"], "YAML"),
        (["a: !mine 3"], "YAML"),
        (["- a", "- b"], "mapping"),
        (["a: [1"], "YAML"),
        (["? [a]", ": b"], "YAML"),
        (["a: " + "[" * 20 + "]" * 20], "levels"),
    ],
)
def test_what_is_not_harmless_is_refused(lines: list[str], named: str) -> None:
    with pytest.raises(DocumentError if named != "levels" else LimitError, match=named):
        read_model_card(card(*lines))


def test_a_billion_laughs_are_none() -> None:
    laughs = ["a: &a [x, x, x, x]"] + [f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}]" for a, b in zip("abcdefgh", "bcdefghi")]
    with pytest.raises(DocumentError, match="alias"):
        read_model_card(card(*laughs))


def test_too_much_is_refused_also_without_an_end() -> None:
    long = "x: " + "y" * (MAX_FRONT_MATTER_BYTES + 100)
    for readme in (card(long), card(long)[:-20]):
        with pytest.raises(LimitError):
            read_model_card(readme)

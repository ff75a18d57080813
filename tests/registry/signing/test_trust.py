from __future__ import annotations

import pytest

from registry.log.note import NoteSigner
from registry.signing.encoding import to_base64
from registry.signing.keys import generate
from registry.signing.trust import check_owner_name, format_trust, parse_trust, trust_of
from tests.registry.signing.models import KEY_ONE
from watermark.errors import DocumentError, InputError, UntrustedKeyError

LOG = "registry.example/log1+4517142d+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4"
WITNESS = "witness.example/w1+20324abe+BCmsuuFBvMrwsi4alNNNC8c2HlJtC/4SyJeUvJMilm3X"
KEY = to_base64(KEY_ONE.public.der)


def test_reads_owners_beside_a_log_policy() -> None:
    second = generate("ed25519").public
    trust = parse_trust(
        f"# whom we believe\n\nowner acme {KEY}  # the first\r\n\towner\tacme\t{to_base64(second.der)}\n"
        f"log {LOG} https://registry.example/log1\nwitness w1 {WITNESS}\ngroup g all w1\nquorum g\n"
    )
    assert trust.owners == {"acme": (KEY_ONE.public, second)}
    assert trust.keys == (KEY_ONE.public, second)
    assert trust.log_vkeys == (LOG,)
    assert (trust.log.quorum, trust.log.witnesses[0].name) == ("g", "w1")
    assert parse_trust(format_trust(trust)) == trust


def test_no_quorum_line_means_no_witness() -> None:
    assert parse_trust(f"owner acme {KEY}\nlog {LOG}").log.quorum is None


def test_new_policies_are_written_as_they_are_read() -> None:
    vkey = NoteSigner("local/log", generate("ed25519")).verifier.vkey
    trust = trust_of({"acme": (KEY_ONE.public,)}, (vkey,))
    assert parse_trust(format_trust(trust)) == trust


def test_owners_are_found_by_key() -> None:
    trust = parse_trust(f"owner acme {KEY}")
    assert trust.owner_of(KEY_ONE.public) == "acme"
    with pytest.raises(UntrustedKeyError):
        trust.owner_of(generate().public)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("owner acme", "line 1"),
        (f"\nowner acme {KEY} more", "line 2"),
        (f"owner acme {KEY}\nowner other {KEY}", "line 2"),
        (f"owner acme {KEY}\nowner acme {KEY}", "line 2"),
        ("owner acme !!!!", "line 1"),
        (f"owner acme {KEY[:-2]}", "line 1"),
        (f"owner acme {KEY.replace('+', '-').replace('/', '_')}x", "line 1"),
        (f"owner acme {KEY}\nlog nonsense", "nonsense"),
        (f"owner acme {KEY}\nfriend x", "line 2"),
        ("quorum none\nquorum none", "quorum"),
        ("quorum w1", "w1"),
        (f"owner\u00a0acme {KEY}", "line 1"),
    ],
)
def test_wrong_lines_are_named(text: str, where: str) -> None:
    with pytest.raises(DocumentError, match=where):
        parse_trust(text)


def test_keys_in_it_are_enrolled_strictly() -> None:
    small_order = bytes.fromhex("302a300506032b6570032100") + b"\x01" + bytes(31)
    with pytest.raises(InputError, match="small order"):
        parse_trust(f"owner acme {to_base64(small_order)}")


@pytest.mark.parametrize("name", ["", "two words", "a#b", "a\tb", "a\nb", "x" * 101, "a\x1bb", "a\u2028b"])
def test_names_that_could_not_stand_in_a_line(name: str) -> None:
    with pytest.raises(InputError):
        check_owner_name(name)

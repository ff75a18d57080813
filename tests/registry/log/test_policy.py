from __future__ import annotations

import pytest

from registry.log.checkpoint import Checkpoint, sign_checkpoint
from registry.log.cosignature import cosign
from registry.log.merkle import EMPTY_ROOT
from registry.log.note import ED25519_COSIGNATURE, Note, NoteSigner, NoteVerifier, parse_note
from registry.log.policy import parse_policy
from tests.registry.example_log import LOG_KEY, ORIGIN, seeded_key
from watermark.errors import InputError, UntrustedKeyError

SIGNER = NoteSigner(ORIGIN, LOG_KEY)
LOG = f"log {SIGNER.verifier.vkey}\n"
KEYS = {name: seeded_key(40 + 20 * at) for at, name in enumerate("abcd")}
VKEYS = {name: NoteVerifier(f"{name}.example", ED25519_COSIGNATURE, key.public.raw).vkey for name, key in KEYS.items()}
WITNESSES = "".join(f"witness {name} {vkey}\n" for name, vkey in VKEYS.items())
NOTE = parse_note(sign_checkpoint(Checkpoint(ORIGIN, 0, EMPTY_ROOT), SIGNER))


def cosigned(names: str) -> bytes:
    lines = [cosign(NOTE.text, f"{name}.example", KEYS[name], 7) for name in names]
    return Note(NOTE.text, (*NOTE.signatures, *lines)).encode()


@pytest.mark.parametrize(
    ("rules", "enough", "too_few"),
    [
        ("quorum none\n", ["", "abcd"], []),
        ("quorum b\n", ["b", "abc"], ["", "acd"]),
        ("group g 2 a b c\nquorum g\n", ["ab", "bc", "abc"], ["", "a", "cd"]),
        ("group g all a b\nquorum g\n", ["ab"], ["a", "bcd"]),
        ("group g any a b\nquorum g\n", ["a", "b"], ["", "cd"]),
        ("group x any a b\ngroup y any c d\ngroup z all x y\nquorum z\n", ["ac", "bd"], ["ab", "cd", "a"]),
    ],
)
def test_quorums(rules: str, enough: list[str], too_few: list[str]) -> None:
    policy = parse_policy(LOG + WITNESSES + rules)
    for names in enough:
        checkpoint, cosignatures = policy.verify(cosigned(names))
        assert checkpoint.origin == ORIGIN
        assert len(cosignatures) == len(names)
    for names in too_few:
        with pytest.raises(UntrustedKeyError, match="quorum"):
            policy.verify(cosigned(names))


def test_a_witness_counts_once_however_often_it_signs() -> None:
    policy = parse_policy(LOG + WITNESSES + "group g 2 a b c\nquorum g\n")
    with pytest.raises(UntrustedKeyError):
        policy.verify(cosigned("aaa"))


def test_comments_tabs_and_empty_lines() -> None:
    text = f"\n# all of it\n\t{LOG.strip()}\thttps://log.example # where\n  quorum\tnone\n"
    policy = parse_policy(text)
    assert policy.logs[0].url == "https://log.example"
    assert policy.quorum is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        LOG,
        LOG + "quorum none\nquorum none\n",
        LOG + "quorum a\n" + WITNESSES,
        LOG + "quorum\n",
        LOG + "quorum none none\n",
        "log\nquorum none\n",
        "log nonsense\nquorum none\n",
        LOG + "trust everyone\nquorum none\n",
        LOG + LOG + "quorum none\n",
        f"log {VKEYS['a']}\nquorum none\n",
        f"witness a {SIGNER.verifier.vkey}\nquorum none\n",
        f"witness none {VKEYS['a']}\nquorum none\n",
        f"witness a {VKEYS['a']}\nwitness a {VKEYS['b']}\nquorum none\n",
        f"witness a {VKEYS['a']}\nwitness b {VKEYS['a']}\nquorum none\n",
        WITNESSES + "group g 0 a b\nquorum g\n",
        WITNESSES + "group g 3 a b\nquorum g\n",
        WITNESSES + "group g 01 a b\nquorum g\n",
        WITNESSES + "group g some a b\nquorum g\n",
        WITNESSES + "group g any\nquorum g\n",
        WITNESSES + "group g any a z\nquorum g\n",
        WITNESSES + "group g any a a\nquorum g\n",
        WITNESSES + "group g any a\ngroup h any a\nquorum g\n",
        WITNESSES + "group g any g\nquorum g\n",
        WITNESSES + "group a any b\nquorum a\n",
        LOG + "quorum none\r\n",
    ],
)
def test_what_is_not_a_policy(text: str) -> None:
    with pytest.raises(InputError):
        parse_policy(text)


def test_one_key_under_two_names_is_one_key() -> None:
    raw = KEYS["a"].public.raw
    second = NoteVerifier("second.example", ED25519_COSIGNATURE, raw).vkey
    with pytest.raises(InputError, match="already"):
        parse_policy(f"witness a {VKEYS['a']}\nwitness b {second}\nquorum none\n")

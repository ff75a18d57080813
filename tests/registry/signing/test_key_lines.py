from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from registry.log.note import NoteSigner
from registry.signing.encoding import to_base64
from registry.signing.key_lines import LogView
from registry.signing.keys import generate
from registry.signing.signers import count_signers, demand_threshold
from registry.signing.trust import TrustPolicy, format_trust, parse_trust
from registry.signing.view_age import judge_view
from tests.registry.signing.keychains import key, key_id
from watermark.errors import DocumentError, RetiredKeyError, RevokedKeyError, StaleViewError, ThresholdError

ORIGIN = "test.example/log"
LOG = f"log {NoteSigner(ORIGIN, generate('ed25519')).verifier.vkey}\n"
OWNERS = "".join(f"owner acme {to_base64(key(name).public.der)}\n" for name in "abcd")
AT = datetime(2026, 11, 1, 9, 30, tzinfo=UTC)
VIEWED = f"viewed {ORIGIN} 120 2026-11-01T09:30:00Z\n"


def trust(*lines: str) -> TrustPolicy:
    return parse_trust(OWNERS + LOG + "".join(f"{line}\n" for line in lines))


def test_round_trip() -> None:
    policy = trust(
        "threshold acme 1 5",
        "threshold acme 2 20",
        f"revoked acme {key_id('c')} 17",
        f"retired acme {key_id('b')} 9   # left the house",
        VIEWED.strip(),
    )
    assert policy.thresholds == {"acme": ((5, 1), (20, 2))}
    assert (policy.revoked, policy.retired) == ({key_id("c"): 17}, {key_id("b"): 9})
    assert policy.viewed == {ORIGIN: LogView(ORIGIN, 120, AT)}
    assert parse_trust(format_trust(policy)) == policy
    assert trust("threshold acme 2").thresholds == {"acme": ((0, 2),)}


def test_files_without_such_lines_ask_for_one_key_and_tell_no_age() -> None:
    policy = trust()
    assert policy.threshold_of("acme", 10**9) == 1
    policy.refuse_spent(key("a").public, 10**9)
    assert judge_view(policy, ORIGIN, AT).days is None


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("threshold acme", r"threshold takes NAME M"),
        ("threshold acme 2 3 4", r"threshold takes NAME M"),
        ("threshold acme 0", "cannot sign"),
        ("threshold acme 5", "cannot sign"),
        ("threshold acme two", "not a number"),
        ("threshold acme 02", "not a number"),
        ("threshold acme +2", "not a number"),
        ("threshold bob 1", "no owner line above it"),
        ("threshold acme 2 9\nthreshold acme 1 9", "stands in this file already"),
        ("threshold acme 2\nthreshold acme 2", "stands in this file already"),
        (f"threshold acme 4\nretired acme {key_id('a')} 3", "3 are in use"),
        (f"revoked acme {key_id('a')}", "revoked takes NAME KEYID INDEX"),
        (f"revoked acme {key_id('a')[:16]} 3", "not the id of a key"),
        (f"revoked acme {key_id('a').upper()} 3", "not the id of a key"),
        (f"revoked acme {key_id('h')} 3", "not the id of a key"),
        (f"revoked acme {key_id('a')} -3", "not a number"),
        (f"revoked acme {key_id('a')} 3\nrevoked acme {key_id('a')} 3", "stands in this file already"),
        (f"viewed {ORIGIN} 3", "viewed takes"),
        (f"viewed {ORIGIN} 3 2026-11-01", "not a time"),
        (f"viewed {ORIGIN} 3 2026-11-01T09:30:00+01:00", "not a time"),
        (f"viewed {ORIGIN} 3 2026-13-01T09:30:00Z", "not a time"),
        ("viewed other.example/log 3 2026-11-01T09:30:00Z", "no log line"),
        (VIEWED + VIEWED.strip(), "stands in this file already"),
    ],
    ids=lambda _: "",  # keys are fresh in each run, and the names of tests must not be
)
def test_every_other_line_is_refused(line: str, says: str) -> None:
    with pytest.raises(DocumentError, match=says):
        trust(line)


def test_a_line_stands_below_the_key_that_it_speaks_of() -> None:
    with pytest.raises(DocumentError, match="line 1: no owner line above"):
        parse_trust(f"revoked acme {key_id('a')} 3\n" + OWNERS)


@pytest.mark.parametrize("start", range(0, 100, 9))
def test_spent_keys_are_refused_from_their_index_on(start: int) -> None:
    policy = trust(f"revoked acme {key_id('a')} {start}", f"retired acme {key_id('b')} {start}")
    for index in range(100):
        for name, error in (("a", RevokedKeyError), ("b", RetiredKeyError)):
            if index < start:
                policy.refuse_spent(key(name).public, index)
            else:
                with pytest.raises(error, match=f"from entry {start} on"):
                    policy.refuse_spent(key(name).public, index)


@pytest.mark.parametrize(
    ("age", "warned"), [(timedelta(hours=-20), False), (timedelta(days=6.9), False), (timedelta(days=7.1), True)]
)
def test_old_views_are_warned_of(age: timedelta, warned: bool) -> None:
    judged = judge_view(trust(VIEWED.strip()), ORIGIN, AT + age)
    assert (judged.warning is not None) == warned
    assert judged.viewed_at == AT


@pytest.mark.parametrize("age", [timedelta(days=30.1), timedelta(days=400), timedelta(days=-2)])
def test_stale_views_are_refused(age: timedelta) -> None:
    policy = trust(VIEWED.strip())
    with pytest.raises(StaleViewError):
        judge_view(policy, ORIGIN, AT + age)
    if age > timedelta(0):
        assert judge_view(policy, ORIGIN, AT + age, refuse_days=500).warning
    assert judge_view(policy, "other.example/log", AT + age).viewed_at is None


def test_a_release_needs_as_many_keys_as_were_asked_for_at_its_index() -> None:
    policy = trust("threshold acme 2 10", "threshold acme 3 20", f"retired acme {key_id('d')} 15")
    public = {name: key(name).public for name in "abcdh"}

    def count(names: str, index: int) -> list[str]:
        signers = count_signers("acme", public[names[0]], [(public[name], False) for name in names[1:]], index, policy)
        demand_threshold(signers, "acme")
        return [one.key_id for one in signers.keys]

    assert count("a", 9) == [key_id("a")]
    assert count("ab", 10) == [key_id("a"), key_id("b")]
    assert len(count("adbb", 12)) == 3
    assert len(count("abc", 25)) == 3
    for names, index in (("a", 10), ("aa", 10), ("ah", 10), ("ad", 15), ("abd", 20)):
        with pytest.raises(ThresholdError):
            count(names, index)


def test_a_revoked_key_countersigns_nothing_not_even_what_is_older() -> None:
    policy = trust("threshold acme 2", f"revoked acme {key_id('b')} 50")
    signers = count_signers("acme", key("a").public, [(key("b").public, False)], 10, policy)
    assert len(signers.keys) == 1
    with pytest.raises(ThresholdError, match="nothing shows that it signed before"):
        demand_threshold(signers, "acme")


def test_what_the_log_entry_lists_was_there_before_the_revocation() -> None:
    policy = trust("threshold acme 2", f"revoked acme {key_id('b')} 50")
    for index, expected in ((49, 2), (50, 1)):
        signers = count_signers("acme", key("a").public, [(key("b").public, True)], index, policy)
        assert len(signers.keys) == expected

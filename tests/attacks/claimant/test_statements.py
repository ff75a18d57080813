"""What a claimant states beside the draw: geometry, secrets, copies, statistic, numbers, dates: refused or idle."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest

from cli.evidence_file import CopyOpening, EvidenceBody
from tests.attacks.claimant.claimant import Claimant, digest_of, invent, openings_of
from tests.watermark.marks.models import write_model
from watermark.errors import DocumentError, InclusionError, KeyMismatchError, VerificationError
from watermark.marks.chips import recipient_code
from watermark.marks.dispute import DISPUTABLE
from watermark.marks.geometry import ExcludedTensor
from watermark.marks.secret import copy_commitment


@pytest.fixture
def claimed(mallory, mallorys):
    """A true case of six blocks about his own marked copy, so that forgeries start strong."""
    digest = digest_of(mallorys.copies[0])
    release = mallory.log_mark(mallorys.plan.root)
    case = mallory.log_case(mallorys.plan.root, digest, 6)
    return release, case, openings_of(mallorys, mallory.drawn(mallorys, digest, case, 6))


def test_geometry_fitted_afterwards_is_not_the_one_in_the_commitment(mallory, mallorys, claimed):
    """Leaving out what speaks against him, other strengths, another share: R holds them all."""
    geometry = mallorys.plan.geometry
    first, *rest = geometry.marked
    gone = ExcludedTensor(first.digest, first.dtype, first.shape, "low entropy")
    moved, start = [], 0
    for tensor in rest:
        moved.append(replace(tensor, first_block=start))
        start += tensor.layout.blocks
    forged = {
        "excluded": replace(geometry, marked=tuple(moved), excluded=(*geometry.excluded, gone)),
        "strength": replace(geometry, marked=(replace(first, strength_ppm=first.strength_ppm * 2), *rest)),
        "share": replace(geometry, recipient_share=1),
        "base": replace(geometry, base="ab" * 32),
    }
    suspect = mallorys.copies[0]
    for other in forged.values():
        document = other.document()
        file = mallory.write(mallorys, suspect, *claimed, forge=lambda b, d=document: replace(b, geometry=d))
        with pytest.raises((KeyMismatchError, VerificationError)):
            mallory.judged(file, suspect)


def test_equal_secrets_and_those_of_another_model_are_refused(mallory, mallorys, acmes, claimed):
    """One secret for two blocks; and one owner secret for two models, as here: each model's R knows its own alone."""
    suspect = mallorys.copies[0]
    release, case, openings = claimed
    assert not {one.secret for one in openings} & {one.secret for one in openings_of(acmes, range(21))}
    first, second, *rest = openings
    others = openings_of(acmes, [one.block for one in openings])
    for forged in (
        (replace(first, secret=second.secret), second, *rest),
        others,
        tuple(replace(one, secret=other.secret) for one, other in zip(openings, others, strict=True)),
        tuple(replace(one, reference=other.reference) for one, other in zip(openings, others, strict=True)),
    ):
        file = mallory.write(
            mallorys, suspect, release, case, openings, forge=lambda body, o=forged: replace(body, openings=o)
        )
        with pytest.raises(KeyMismatchError):
            mallory.judged(file, suspect)


def test_a_mark_logged_after_its_case_is_refused(mallory, mallorys, innocent):
    case = mallory.log_case(mallorys.plan.root, digest_of(innocent), 2)
    release = mallory.log_mark(mallorys.plan.root, logged_at="1999-01-01T00:00:00Z")
    openings = openings_of(mallorys, mallory.drawn(mallorys, digest_of(innocent), case, 2))
    with pytest.raises(InclusionError, match="could have been made for this suspect"):
        mallory.judged(mallory.write(mallorys, innocent, release, case, openings), innocent)


def test_a_statistic_outside_the_family_is_refused(mallory, mallorys, innocent):
    release = mallory.log_mark(mallorys.plan.root)
    case = mallory.log_case(mallorys.plan.root, digest_of(innocent), 2, statistic="the one that suits")
    openings = openings_of(mallorys, mallory.drawn(mallorys, digest_of(innocent), case, 2))
    with pytest.raises(DocumentError, match="not of the family"):
        mallory.judged(mallory.write(mallorys, innocent, release, case, openings), innocent)


def test_numbers_in_the_file_are_recomputed_or_refused(mallory, mallorys, innocent):
    """T and energy must be those of the suspect; whatever else he writes about them is not read."""
    release = mallory.log_mark(mallorys.plan.root)
    case = mallory.log_case(mallorys.plan.root, digest_of(innocent), 4)
    openings = openings_of(mallorys, mallory.drawn(mallorys, digest_of(innocent), case, 4))

    def judged(**result: object):
        def bend(body: EvidenceBody) -> EvidenceBody:
            return replace(body, result={**body.result, **result})

        return mallory.judged(mallory.write(mallorys, innocent, release, case, openings, forge=bend), innocent)

    for name in ("total", "energy"):
        with pytest.raises(VerificationError, match="not the ones that the suspect shows"):
            judged(**{name: "123456789"})
    true = judged()
    loud = judged(log2_p=-9e9, log2_p_adjusted=-9e9, threshold=0, multiplicity=[], alignment={"w": [1, 0]})
    assert not loud.holds
    assert loud.log2_p_adjusted == true.log2_p_adjusted > -8
    assert loud.threshold == -128


def test_no_date_of_his_own_lowers_the_threshold(mallory, mallorys, innocent):
    """Backdated entries, a suspect dated after doomsday and a challenge: without a stamp that others gave, 128 bits."""
    digest, challenge = digest_of(innocent), b"\x5a" * 32
    release = mallory.log_mark(mallorys.plan.root, logged_at="1999-01-01T00:00:00Z")
    case = mallory.log_case(mallorys.plan.root, digest, 4, logged_at="1999-01-02T00:00:00Z")
    openings = openings_of(mallorys, mallory.drawn(mallorys, digest, case, 4, challenge=challenge))
    dated = {"date": "2999-01-01", "source": "its page on a hub"}
    for stamps in ((), (b"no stamp",)):
        file = mallory.write(
            mallorys, innocent, release, case, openings, challenge=challenge,
            forge=lambda body, s=stamps: replace(body, suspect={**body.suspect, **dated}, stamps=s),
        )  # fmt: skip
        found = mallory.judged(file, innocent)
        assert (found.holds, found.order, found.threshold) == (False, "self-asserted", -128)


def test_copy_keys_and_salts_ground_for_one_recipient_gain_the_log_of_the_tries(acmes, tmp_path):
    """acme would blame Initech, who got no copy. R stands, so a try is cheap; the copy must be logged before."""
    acme, suspect, root = Claimant(tmp_path / "acme", "acme"), acmes.copies[0], acmes.plan.root
    scores = acmes.folded(suspect)
    tries, best, chosen = 4_096, 0.0, b""
    for number in range(tries):
        key = hashlib.sha256(number.to_bytes(8, "big")).digest()
        code = recipient_code(key, acmes.embedder.stretched, copy_commitment(root, key, bytes(32), "Initech"))
        best, chosen = min((best, chosen), (scores.test(code).log2_p, key))
    assert -math.log2(tries) - 6 < best < -4
    committed = acmes.plan.key.copy_key("Globex").commitment(root).hex()
    ground = CopyOpening(chosen, bytes(32), "Initech")
    late = copy_commitment(root, ground.key, ground.salt, ground.recipient).hex()
    for commitment in (committed, late):
        release = acme.log_mark(root, copy="22" * 16, copy_commitment=commitment)
        case = acme.log_case(root, digest_of(suspect), 4, layer="recipient", copy="22" * 16)
        openings = openings_of(acmes, acme.drawn(acmes, digest_of(suspect), case, 4))
        file = acme.write(acmes, suspect, release, case, openings, copy=ground)
        if commitment == committed:
            with pytest.raises(KeyMismatchError, match="not the one that was committed"):
                acme.judged(file, suspect)
            continue
        found = acme.judged(file, suspect)  # logged late, in a log of his own: no order, and far too few bits
        assert (found.holds, found.recipient) == (False, None)
        assert any("short of 64 bits" in reason for reason in found.reasons)


@pytest.mark.parametrize("spoil", ["nan", "infinite", "huge", "tiny", "zero", "one weight"])
def test_references_that_are_no_numbers_give_no_bits(tmp_path, spoil):
    """A reference is the claimant's to choose: what breaks arithmetic must break it to nobody's favour."""
    plain, theirs = (np.random.default_rng(seed).normal(0, 0.05, (256, 128)) for seed in (305, 306))
    suspect = write_model(tmp_path / "suspect", {"w": theirs.astype(np.float32)})
    weights = {
        "nan": np.where(plain > 0.02, np.nan, plain),
        "infinite": np.where(plain > 0.02, -np.inf, plain),
        "huge": np.clip(plain, -0.1, 0.1) * 3e39,
        "tiny": plain * 1e-42,
        "zero": plain * 0,
        "one weight": np.where(np.arange(plain.size).reshape(plain.shape) == 5, 3e38, 0),
    }[spoil].astype(np.float32)
    made = invent(weights, lambda block: bytes([block]) * 32)
    with np.errstate(over="ignore", invalid="ignore"):
        tests = [
            made.shown_in(suspect, statistic, bytes([key]) * 32) for statistic in DISPUTABLE for key in range(1, 9)
        ]
    assert all(-16 < test.log2_p <= 0 for test in tests)

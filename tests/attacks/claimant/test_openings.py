"""Evidence files forged with a real key and a log of one's own: draws steered, blocks chosen, another's shown."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from cli import evidence as evidence_job
from cli.outcome import CaseCost, Outcome
from registry.signing.canonical import canonical
from registry.signing.entry import CASE
from tests.attacks.claimant.claimant import Claimant, block_scores, digest_of, openings_of, unshipped
from tests.attacks.claimant.conftest import MANY, of_many_blocks
from tests.watermark.marks.models import read_weights, write_model
from watermark.errors import DigestError, KeyMismatchError, VerificationError
from watermark.evidence import KeyedTest
from watermark.marks.dispute import draw_blocks, draw_choices
from watermark.marks.geometry import owner_digest

CHALLENGE = b"\x5a" * 32


def bits_of(z: np.ndarray) -> float:
    """What blocks of these z show together, their energies taken as equal."""
    return max(0.0, float(z.sum())) ** 2 / len(z) / (2 * math.log(2)) if len(z) else 0.0


def test_a_true_claim_holds_and_the_same_claim_about_an_innocent_does_not(mallory, mallorys, innocent):
    """The control of this file: what is refused below is refused for its forgery, not for the claimant's tools."""
    for suspect, holds in ((mallorys.copies[0], True), (innocent, False)):
        release = mallory.log_mark(mallorys.plan.root)
        case = mallory.log_case(mallorys.plan.root, digest_of(suspect), 6)
        openings = openings_of(mallorys, mallory.drawn(mallorys, digest_of(suspect), case, 6))
        found = mallory.judged(mallory.write(mallorys, suspect, release, case, openings), suspect)
        assert found.holds is holds
        assert (found.log2_p_adjusted <= -128) is holds
        assert holds or found.log2_p_adjusted > -8


@pytest.mark.slow
def test_spending_the_blocks_that_speak_against_him_leaves_chance_and_is_paid_for(mallory, tmp_path):
    """One earlier case for each block he wants gone, its draw made up until it takes such a block: a few tries each.

    The last case then opens all that is left, and no challenge matters: 160 bits on an innocent model, which were
    accepted before the choice was paid for.
    """
    suspect = of_many_blocks(tmp_path / "suspect", 7)
    marked = unshipped(of_many_blocks(tmp_path / "reference", 8))
    root, digest = marked.plan.root, digest_of(suspect)
    z = np.array(block_scores(marked, suspect))
    unwanted = np.flatnonzero(z < 0.6).tolist()
    release = mallory.log_mark(root)
    prior, tries = mallory.spend(marked, digest, unwanted)
    count = MANY - len(unwanted)
    case = mallory.log_case(root, digest, count, prior=[release + 1 + number for number in range(len(unwanted))])
    drawn = mallory.drawn(marked, digest, case, count, unwanted, challenge=CHALLENGE)
    file = mallory.write(marked, suspect, release, case, openings_of(marked, drawn), challenge=CHALLENGE, prior=prior)
    found = mallory.judged(file, suspect)
    assert tries < 8_000
    raw = float(next(reason for reason in found.reasons if "recomputed" in reason).rpartition(" ")[2])
    assert raw + math.log2(9) + math.log2(case + 1) < -128  # what was paid before, and was not enough
    assert not found.holds
    assert found.log2_p_adjusted == 0
    assert any("could have been picked" in reason for reason in found.reasons)


@pytest.mark.parametrize(("blocks", "spent", "count"), [(128, 126, 2), (1_400, 4, 4), (20, 4, 4), (704, 500, 204)])
def test_what_spent_blocks_cost_is_the_fewer_of_both_choices(blocks, spent, count):
    choices = draw_choices(blocks, spent, count)
    assert choices == min(math.comb(blocks, spent), math.comb(blocks, count))
    best = np.sort(np.random.default_rng(blocks).normal(size=(200, blocks)), axis=1)[:, -count:]
    assert max(bits_of(z) for z in best) < math.log2(choices) + 16  # no choice of blocks gains more than it costs
    assert draw_choices(blocks, 0, count) == 1


def test_what_is_paid_stands_in_the_file_also_where_no_number_of_json_holds_it():
    outcome = Outcome(KeyedTest("difference", 10_000, 100_000, 9), (), KeyedTest("code", 9_000, 100_000, 9))
    fields = outcome.to_json(CaseCost(6, 1 << 60))
    assert fields["multiplicity"][1:] == [
        {"what": "log entries up to the case", "count": 7},
        {"what": "choices of spent blocks", "count": str(1 << 60)},
    ]
    assert fields["log2_p_adjusted"] == pytest.approx(fields["log2_p"] + math.log2(9 * 7) + 60)
    named = fields["recipient"]
    assert named["log2_p_adjusted"] == pytest.approx(named["log2_p"] + math.log2(7) + 60)
    assert canonical(fields)


def test_a_draw_ground_by_its_own_case_entry_gains_the_log_of_the_tries(mallory, mallorys, innocent):
    """Nobody stops him from signing case after case, unlogged, until the draw is to his taste."""
    root, digest = mallorys.plan.root, digest_of(innocent)
    z = np.array(block_scores(mallorys, innocent))
    release = mallory.log_mark(root)
    best, entry, tries = -1.0, b"", 1_024
    for nonce in range(tries):
        one = mallory.entry(CASE, mallory.case(root, digest, 4, nonce=str(nonce)))
        randomness = mallory.randomness([*mallory.entries, one])
        shown = bits_of(z[list(draw_blocks(root, digest, one, randomness, range(len(z)), 4))])
        best, entry = max((best, entry), (shown, one))
    assert 1 < best < math.log2(tries)
    mallory.entries.append(entry)
    case = len(mallory.entries) - 1
    openings = openings_of(mallorys, mallory.drawn(mallorys, digest, case, 4))
    found = mallory.judged(mallory.write(mallorys, innocent, release, case, openings), innocent)
    assert not found.holds
    assert found.log2_p_adjusted > -math.log2(tries)


@pytest.mark.parametrize("kind", ["subset", "prefix", "reordered"])
def test_blocks_that_were_not_drawn_are_refused(mallory, mallorys, innocent, kind):
    root, digest = mallorys.plan.root, digest_of(innocent)
    z = np.array(block_scores(mallorys, innocent))
    release = mallory.log_mark(root)
    case = mallory.log_case(root, digest, 6)
    drawn = mallory.drawn(mallorys, digest, case, 6)
    best_first = tuple(int(block) for block in np.argsort(-z))
    prefix = max(range(1, 6), key=lambda count: z[list(drawn[:count])].mean())
    chosen = {"subset": best_first[:6], "prefix": drawn[:prefix], "reordered": tuple(reversed(drawn))}[kind]
    assert kind != "subset" or bits_of(z[list(chosen)]) > 6
    file = mallory.write(mallorys, innocent, release, case, openings_of(mallorys, chosen))
    with pytest.raises(VerificationError, match="not the ones that were drawn"):
        mallory.judged(file, innocent)


def test_a_suspect_padded_cut_or_swapped_is_not_the_suspect(mallory, mallorys, innocent, tmp_path):
    """The file may be true of what he made of the suspect; whoever has the suspect itself sees that it is another."""
    weights = read_weights(innocent)
    made = {
        "padded, which draws other blocks": {**weights, "pad": np.ones((1, 1), np.float32)},
        "cut to the tensor that speaks for him": {"up": weights["up"]},
        "swapped for a copy that carries his mark": read_weights(mallorys.copies[0]),
    }
    for number, (name, theirs) in enumerate(made.items()):
        suspect = write_model(tmp_path / str(number), theirs)
        release = mallory.log_mark(mallorys.plan.root)
        present = {values.shape for values in theirs.values()}
        marked = mallorys.plan.geometry.marked
        absent = [place for place, tensor in enumerate(marked) if tensor.shape not in present]
        gone = {
            block
            for place in absent
            for block in range(marked[place].first_block, marked[place].first_block + marked[place].layout.blocks)
        }
        case = mallory.log_case(mallorys.plan.root, digest_of(suspect), 4, absent=absent)
        openings = openings_of(mallorys, mallory.drawn(mallorys, digest_of(suspect), case, 4, gone))
        file = mallory.write(mallorys, suspect, release, case, openings)
        assert mallory.judged(file, suspect).suspect_compared, name
        with pytest.raises(DigestError, match="not the suspect of the case"):
            mallory.judged(file, innocent)


def test_tensors_are_absent_only_where_the_suspect_lacks_them(mallory, mallorys, innocent):
    """The best of many layers: calling the others absent leaves them out of the draw."""
    root, digest = mallorys.plan.root, digest_of(innocent)
    release = mallory.log_mark(root)
    case = mallory.log_case(root, digest, 2, absent=[0, 1])
    last = mallorys.plan.geometry.marked[2]
    drawn = mallory.drawn(mallorys, digest, case, 2, range(last.first_block))
    file = mallory.write(mallorys, innocent, release, case, openings_of(mallorys, drawn))
    with pytest.raises(VerificationError, match="left tensors out of the draw"):
        mallory.judged(file, innocent)


def test_another_owners_opened_blocks_are_no_evidence_for_mallory(mallory, acmes, tmp_path, monkeypatch):
    """Once shown in a dispute, secrets are known: Mallory logs acme's R as his, spends all other blocks, shows these.

    The suspect is acme's, the mark is real, every signature is Mallory's own. Only the owner in the geometry, which R
    holds, says whose it is.
    """
    suspect, root, blocks = acmes.copies[0], acmes.plan.root, acmes.plan.geometry.blocks
    acme = Claimant(tmp_path / "acme", "acme")
    release, case = acme.log_mark(root), acme.log_case(root, digest_of(suspect), 4)
    seen = openings_of(acmes, acme.drawn(acmes, digest_of(suspect), case, 4))
    assert acme.judged(acme.write(acmes, suspect, release, case, seen), suspect).holds

    release = mallory.log_mark(root)
    shown = {one.block: one for one in seen}
    others = [block for block in range(blocks) if block not in shown]
    prior, _ = mallory.spend(acmes, digest_of(suspect), others)
    earlier = [release + 1 + number for number in range(len(others))]
    case = mallory.log_case(root, digest_of(suspect), 4, prior=earlier)
    openings = [shown[block] for block in mallory.drawn(acmes, digest_of(suspect), case, 4, others)]
    file = mallory.write(acmes, suspect, release, case, openings, prior=prior)
    with pytest.raises(KeyMismatchError, match="not made by 'mallory'"):
        mallory.judged(file, suspect)
    renamed = replace(acmes.plan.geometry, owner=owner_digest("mallory")).document()
    bent = mallory.write(
        acmes, suspect, release, case, openings, prior=prior, forge=lambda body: replace(body, geometry=renamed)
    )
    with pytest.raises(KeyMismatchError, match="not the one that the commitment holds"):
        mallory.judged(bent, suspect)
    monkeypatch.setattr(evidence_job, "_check_owner", lambda *_: None)
    assert mallory.judged(file, suspect).holds  # without the owner in R, acme's evidence is anybody's

"""Alignments that a claimant fits to his chips, and references that he builds to steer the alignment or kinship."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from tests.attacks.claimant.claimant import digest_of, openings_of
from tests.attacks.marked_victims import Victim
from tests.attacks.victims import edits_of, state_of
from tests.watermark.marks.models import read_weights, write_model
from watermark.errors import DigestError
from watermark.lineage.kinship import compare_units, log2_fixed_points
from watermark.lineage.symmetry.units import match_rows, unit_rows
from watermark.marks.chips import OwnerChips


def test_rows_reordered_to_fit_the_chips_are_another_suspect(mallory, mallorys, innocent, tmp_path):
    """Any matrix shows any key after the right permutation of its rows, so no alignment of the claimant's is read."""
    weights, plan = read_weights(innocent), mallorys.plan
    fitted = dict(weights)
    reference = read_weights(mallorys.reference)
    for tensor in plan.geometry.marked:
        name, layout = plan.surveys[tensor.digest].names[0], tensor.layout
        blocks = range(tensor.first_block, tensor.first_block + layout.blocks)
        counts = [stop - start for start, stop in map(layout.bounds, range(layout.blocks))]
        chips = OwnerChips([mallorys.chips.keys(block) for block in blocks], counts).signs.reshape(tensor.shape)
        gain = chips @ weights[name].T  # what each row of the suspect would show in each place
        _, rows = linear_sum_assignment(-gain)
        fitted[name] = weights[name][rows]
        assert (chips * fitted[name]).sum() > 0
        assert np.abs((chips * (weights[name] - reference[name])).sum()) < 5 * weights[name].size ** 0.5 * 0.08
    suspect = write_model(tmp_path / "fitted", fitted)
    release = mallory.log_mark(plan.root)
    case = mallory.log_case(plan.root, digest_of(suspect), 8)
    openings = openings_of(mallorys, mallory.drawn(mallorys, digest_of(suspect), case, 8))
    file = mallory.write(mallorys, suspect, release, case, openings)
    assert mallory.judged(file, suspect).holds  # if the fitted order were believed, any innocent would be convicted
    with pytest.raises(DigestError, match="not the suspect"):
        mallory.judged(file, innocent)


def test_a_reference_that_steers_the_alignment_steers_it_before_its_chips_are_drawn(tmp_path):
    """Made of the suspect, disguised, minus a pattern: the alignment finds its way, and the key finds nothing."""
    suspect = reference = state_of("gpt", 21)
    for number, name in enumerate(("hidden permuted", "heads permuted", "stream rotated", "value-output mixed")):
        reference = edits_of("gpt")[name].run(reference, number)
    signs = torch.Generator().manual_seed(5)
    victim = Victim(
        tmp_path,
        {
            name: values - 0.03 * values.std() * (2.0 * torch.randint(2, values.shape, generator=signs) - 1)
            for name, values in reference.items()
        },
    )
    shown = victim.shown_in(suspect)
    assert shown.alignment is not None
    assert len(shown.alignment.undone) >= 3
    assert shown.test.trials > 100_000
    assert shown.test.log2_p > -16
    assert victim.shown_in(victim.state).test.log2_p < -10_000  # while his own copy is found


def test_units_reordered_to_fit_make_a_relative_of_anyone():
    """Why kinship prints no number without an independent stamp: one assignment puts every unit in place."""
    ours, theirs = (np.random.default_rng(seed).normal(size=(256, 64)).astype(np.float32) for seed in (1, 2))
    index, _ = match_rows(unit_rows(theirs), unit_rows(ours))
    shuffle = np.random.default_rng(3)
    honest, fitted = (compare_units(one, theirs, shuffle)[1] for one in (ours, ours[index]))
    assert (honest, fitted) == (honest, 256)
    assert log2_fixed_points(honest, 1) > -8
    assert log2_fixed_points(fitted, 1) < -1_600

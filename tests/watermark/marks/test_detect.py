"""The keyed test finds the mark, says how much, and stays silent on every innocent model and wrong key."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tests.watermark.marks.models import WITHOUT_BASE, random_weights, read_weights, write_model
from watermark.evidence import log2_p_subgaussian
from watermark.marks.chips import CODE_UNIT, CODE_VALUES, BlockKeys, OwnerChips, recipient_code, unpack_chips
from watermark.marks.detect import BLIND, DIFFERENCE, REGRESSION, detect, join, residual, score
from watermark.marks.secret import BlockSecrets, ReleaseKey
from watermark.marks.spans import ChipSource, Sources, SpanValues, median_of_live, quantise, read_patterns
from watermark.marks.statistic import energies, quantise_blind, signed_totals
from watermark.marks.subspace import SUBSPACES, detect_subspaces
from watermark.marks.survey import as_rows
from watermark.marks.trace import Scores
from watermark.model import parallel
from watermark.model.digest import layout_of
from watermark.model.directory import open_model


def shown_in(marked, suspect_folder, names=tuple(WITHOUT_BASE), chips=None):
    with open_model(marked.reference) as reference, open_model(suspect_folder) as suspect:
        carriers = marked.carriers(reference, suspect)
        found = detect(Sources(suspect, reference), carriers, chips or marked.chips, list(names))
    return {test.name: test for test in found}


def changed(marked, tmp_path, change):
    """The first copy with every matrix changed, written anew."""
    weights = {
        name: change(values) if values.ndim == 2 else values for name, values in read_weights(marked.copies[0]).items()
    }
    return write_model(tmp_path / "suspect", weights)


def test_untouched_copy_shows_what_was_predicted(marked):
    found = shown_in(marked, marked.copies[0])
    predicted = math.sqrt(-marked.plan.expected_log2_p * 2 * math.log(2))
    assert found[BLIND].z == pytest.approx(predicted, abs=4.5)
    assert found[DIFFERENCE].log2_p < -100_000
    assert found[REGRESSION].log2_p < -100_000


def test_reference_itself_shows_nothing(marked):
    found = shown_in(marked, marked.reference)
    assert all(test.log2_p > -20 for test in found.values())
    assert found[DIFFERENCE].trials == 0


@pytest.mark.parametrize("seed", range(5))
def test_independent_model_shows_nothing(marked, tmp_path, seed):
    innocent = write_model(tmp_path / "innocent", random_weights(seed=100 + seed))
    assert all(test.log2_p > -20 for test in shown_in(marked, innocent).values())


def test_wrong_secret_shows_nothing_in_the_marked_copy(marked):
    wrong = ChipSource.of(ReleaseKey(b"w" * 32).block_secrets(), marked.embedder.stretched)
    assert all(test.log2_p > -20 for test in shown_in(marked, marked.copies[0], chips=wrong).values())


def test_pruned_noisy_and_merged_copies_still_show_it(marked, tmp_path):
    draw = np.random.default_rng(5)
    pruned = changed(marked, tmp_path / "p", lambda w: np.where(np.abs(w) < np.quantile(np.abs(w), 0.5), 0, w))
    noisy = changed(marked, tmp_path / "n", lambda w: w + draw.normal(0, 0.1 * w.std(), w.shape).astype(np.float32))
    merged = changed(marked, tmp_path / "m", lambda w: (0.3 * w).astype(np.float32))
    assert shown_in(marked, pruned)[DIFFERENCE].log2_p < -10_000
    assert shown_in(marked, noisy)[DIFFERENCE].log2_p < -1_000
    assert shown_in(marked, merged)[REGRESSION].log2_p < -10_000


def test_a_copy_pruned_to_a_tenth_keeps_a_tenth_of_the_evidence(marked, tmp_path):
    """Lines with one weight left once weighed by that weight's own luck, and took all but 2 % of the evidence away."""
    folder = changed(marked, tmp_path, lambda w: np.where(np.abs(w) < np.quantile(np.abs(w), 0.9), 0, w))
    whole = shown_in(marked, marked.copies[0])[DIFFERENCE].log2_p
    assert shown_in(marked, folder)[DIFFERENCE].log2_p < 0.07 * whole


def test_truncated_copy_shows_it_in_its_own_subspace(marked, tmp_path, monkeypatch):
    def cut(w):
        left, values, right = np.linalg.svd(w.astype(np.float64), full_matrices=False)
        keep = max(1, len(values) // 4)
        return ((left[:, :keep] * values[:keep]) @ right[:keep]).astype(np.float32)

    folder = changed(marked, tmp_path, cut)
    with open_model(marked.reference) as reference, open_model(folder) as suspect:
        carriers = marked.carriers(reference, suspect)
        found = {t.name: t for t in detect_subspaces(Sources(suspect, reference), carriers, marked.chips)}
        plain = detect(Sources(suspect, reference), carriers, marked.chips, [DIFFERENCE])[0]
        with monkeypatch.context() as many:
            many.setattr(parallel, "workers", lambda: 2)
            many.setattr(parallel, "_FORK_BYTES", 0)
            side_by_side = detect_subspaces(Sources(suspect, reference), carriers, marked.chips)
    assert side_by_side == list(found.values())
    assert found["subspace of the rank"].log2_p < -10_000
    assert found["subspace of the rank"].log2_p < 50 * plain.log2_p
    wrong = ChipSource.of(ReleaseKey(b"w" * 32).block_secrets(), marked.embedder.stretched)
    with open_model(marked.reference) as reference, open_model(folder) as suspect:
        carriers = marked.carriers(reference, suspect)
        assert all(t.log2_p > -20 for t in detect_subspaces(Sources(suspect, reference), carriers, wrong, SUBSPACES))


def test_real_int8_codes_are_read_in_their_own_unit(marked, tmp_path):
    weights, kinds = {}, {}
    for name, values in read_weights(marked.copies[0]).items():
        if values.ndim != 2:
            weights[name] = values
            continue
        scale = np.abs(values).max(axis=1, keepdims=True) / 127
        weights[name], kinds[name] = np.rint(values / scale).astype(np.int8), "I8"
        weights[f"{name}.scale"] = scale[:, 0].astype(np.float32)
    folder = write_model(tmp_path / "codes", weights, kinds)
    found = shown_in(marked, folder)
    assert found[BLIND].log2_p < -64
    assert found[DIFFERENCE].log2_p < -10_000
    assert found[REGRESSION].log2_p < -10_000


def test_each_copy_names_its_own_recipient_and_no_other(marked):
    names = ["Globex", "Initech", *(f"innocent {number}" for number in range(50))]
    for number, right in enumerate(["Globex", "Initech"]):
        scores = marked.folded(marked.copies[number])
        found = {name: scores.test(marked.code(name)) for name in names}
        assert found[right].log2_p < -1_000
        assert all(test.log2_p > -25 for name, test in found.items() if name != right)


def test_the_best_of_many_codes_is_that_of_each_tested_alone():
    draw = np.random.default_rng(3)
    codes = {f"r{number}": recipient_code(draw.bytes(32), b"s" * 32, b"c" * 32) for number in range(20)}
    y = codes["r7"].astype(np.int64) * 1_000_003 + draw.integers(-(2**30), 2**30, CODE_VALUES)
    scores = Scores(y, 1)
    exact = sum(value * value for value in y.tolist()) * CODE_UNIT**2
    assert all(scores.test(code).energy == exact for code in codes.values())
    alone = {name: scores.test(code) for name, code in codes.items()}
    best = min(alone, key=lambda name: alone[name].log2_p)
    assert best == "r7"
    assert scores.best(codes.items()) == (best, alone[best])
    assert scores.best([]) is None


def one_block(marked, folder):
    """Values of the first block of the first marked tensor, in the suspect and in the reference."""
    tensor = marked.plan.geometry.marked[0]
    name = marked.plan.surveys[tensor.digest].names[0]
    start, stop = layout_of(tensor.shape).bounds(0)
    with open_model(marked.reference) as reference, open_model(folder) as suspect:
        return SpanValues(
            read_patterns(suspect, suspect.tensors[name], start, stop),
            reference.values(reference.tensors[name], start, stop),
            None,
            False,
        )


def weighted_columns(values, layout):
    """f of the blind and the difference statistic with the lines' weights multiplied in, (carriers, 2)."""
    blind = np.concatenate([quantise_blind(part).ravel() for part in as_rows(values.suspect, layout.row)])
    shown = residual(DIFFERENCE, values, layout)
    lines = list(zip(as_rows(shown, layout.line), as_rows(values.reference, layout.line), strict=True))
    weighted = []
    for d, w in lines:
        f, scale = quantise(d, 1.5 * 1.4826)
        size = np.abs(w)
        weighted.append((f * (median_of_live(size, size.max(axis=1)) * scale)[:, None]).ravel())
    return np.stack([blind, np.concatenate(weighted) / np.float32(scale.max() or 1)], axis=1)


@pytest.mark.slow
def test_a_hundred_thousand_wrong_secrets_follow_the_normal_law(marked, tmp_path):
    innocent = write_model(tmp_path / "innocent", random_weights(seed=77))
    layout = layout_of(marked.plan.geometry.marked[0].shape)
    suspects = [one_block(marked, folder) for folder in (marked.copies[0], innocent)]
    columns = np.concatenate([weighted_columns(values, layout) for values in suspects], axis=1)
    _check_a_key_by_hand(marked, suspects[0], columns[:, :2], layout)
    count, batch = 100_000, 500
    secrets = BlockSecrets(b"n" * 32)
    totals = np.empty((count, columns.shape[1]))
    for first in range(0, count, batch):
        bits = [
            BlockKeys(secrets.secret(key), marked.embedder.stretched, 0).owner_bits(len(columns))
            for key in range(first, first + batch)
        ]
        packed = np.frombuffer(b"".join(bits), np.uint8).reshape(batch, -1)
        chips = np.unpackbits(packed, axis=1, count=len(columns)).astype(np.float32)
        totals[first : first + batch] = 2 * (chips.astype(np.float64) @ columns) - columns.sum(axis=0)
    energy = (columns.astype(np.float64) ** 2).sum(axis=0)
    for z, spread, column_totals in zip((totals / np.sqrt(energy)).T, energy, totals.T, strict=True):
        assert stats.kstest(z, "norm").pvalue > 1e-3
        log2_p = np.array([log2_p_subgaussian(int(total * 64), int(spread * 4096)) for total in column_totals])
        for bits in (2, 4, 8, 12, 16):
            allowed = stats.binom.ppf(1 - 1e-6, count, 2.0**-bits)
            assert (log2_p <= -bits).sum() <= allowed
        assert log2_p.min() > -40


def _check_a_key_by_hand(marked, values, columns, layout):
    """The columns above are the product's own statistic: one key's z agrees with what `score` finds."""
    count = len(columns)
    chips = OwnerChips([BlockKeys(b"h" * 32, bytes(32), 0)], [count])
    for name, column in zip((BLIND, DIFFERENCE), columns.T, strict=True):
        found = join(name, [score(name, values, chips, layout)])
        assert found.z == pytest.approx(
            chips.signs @ column / np.sqrt(np.square(column, dtype=np.float64).sum()), rel=0.02
        )


def test_three_weights_with_all_the_energy_are_no_false_alarm():
    rows = np.zeros((1, 16_384), np.float32)
    rows[0, [5, 900, 16_000]] = 1e6
    f = quantise_blind(rows)
    smallest = 0.0
    for key in range(2_000):
        keys = BlockKeys(key.to_bytes(32, "big"), bytes(32), 0)
        chips = unpack_chips(keys.owner_bits(16_384), np.empty(16_384, np.float32)).reshape(1, -1)
        total, energy = int(signed_totals(f, chips)[0]), int(energies(f)[0])
        smallest = min(smallest, log2_p_subgaussian(total, energy))
    assert -3.0 <= smallest < 0.0


def test_not_a_number_in_a_suspect_gives_a_number(marked, tmp_path):
    def spoil(w):
        w = w.copy()
        w[0, :5], w[1, :5], w[2] = np.nan, np.inf, 0
        return w

    found = shown_in(marked, changed(marked, tmp_path, spoil))
    assert all(np.isfinite(test.log2_p) for test in found.values())
    assert found[DIFFERENCE].log2_p < -10_000


def test_integer_sums_do_not_depend_on_how_the_suspect_is_cut(marked):
    whole = shown_in(marked, marked.copies[0])[DIFFERENCE]
    with open_model(marked.reference) as reference, open_model(marked.copies[0]) as suspect:
        parts = [
            detect(Sources(suspect, reference), [carrier], marked.chips, [BLIND])[0]
            for carrier in marked.carriers(reference, suspect)
        ]
        blind = detect(Sources(suspect, reference), marked.carriers(reference, suspect), marked.chips, [BLIND])[0]
    assert whole.trials > 0
    assert sum(part.trials for part in parts) == blind.trials
    assert blind.total**2 * sum(p.energy for p in parts) == sum(p.total for p in parts) ** 2 * blind.energy

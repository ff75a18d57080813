"""Heads that two matrices share: found by their products, one mix fitted to both, in noise and at a low rank."""

from __future__ import annotations

import numpy as np
import pytest

from watermark.lineage.symmetry.heads import fit_linked_heads

HEADS, SIZE, WIDTH = 4, 16, 96


def mixed(draw, query, key):
    """Heads in another order, an invertible matrix of condition 4 inside each, its inverse on the other side."""
    order = draw.permutation(HEADS)
    queries, keys = (part.reshape(HEADS, SIZE, WIDTH)[order] for part in (query, key))
    left, right = (np.linalg.qr(draw.normal(size=(HEADS, SIZE, SIZE)))[0] for _ in range(2))
    mix = left @ (4 ** (draw.random((HEADS, 1, SIZE)) - 0.5) * right)
    there = (mix @ queries).reshape(-1, WIDTH), (np.linalg.inv(mix).transpose(0, 2, 1) @ keys).reshape(-1, WIDTH)
    return tuple(part.astype(np.float32) for part in there)


def cut(matrix, rank):
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank]


@pytest.fixture
def layers():
    """Query and key of two layers, some directions stronger than others, as in a trained model."""
    draw = np.random.default_rng(3)
    strength = np.geomspace(4, 0.25, WIDTH)
    return [draw.normal(size=(HEADS * SIZE, WIDTH)) * strength for _ in range(4)]


@pytest.mark.parametrize(
    ("damage", "least"),
    [
        (lambda part, _: part, 0.999),
        (lambda part, draw: part + draw.normal(size=part.shape) * 0.4 * part.std(), 0.9),
        (lambda part, draw: cut(part, 24) + draw.normal(size=part.shape) * 0.05 * part.std(), 0.9),
    ],
    ids=["exact", "noise", "low rank"],
)
def test_heads_are_found_by_their_products(layers, damage, least):
    draw = np.random.default_rng(5)
    damaged = [damage(part, draw) for part in layers]
    theirs = [*mixed(draw, *damaged[:2]), *mixed(draw, *damaged[2:])]
    faces = [(ours.astype(np.float32), there) for ours, there in zip(layers, theirs, strict=True)]
    order = [2, 0, 3, 1]
    fits = fit_linked_heads([faces[number] for number in order])
    assert set(fits) == {0, 1, 2, 3}
    for place, number in enumerate(order):
        undone = fits[place].apply(faces[number][1]).astype(np.float64)
        truth = damaged[number]
        assert (undone * truth).sum() / np.linalg.norm(undone) / np.linalg.norm(truth) > least
        assert fits[place].head == SIZE


def test_query_key_and_value_in_one_matrix_are_linked_in_thirds(layers):
    draw = np.random.default_rng(6)
    query, key, value, output = layers
    new_query, new_key = mixed(draw, query, key)
    new_value, new_output = mixed(draw, value, output)
    ours = np.concatenate([query, key, value]).astype(np.float32)
    there = np.concatenate([new_query, new_key, new_value])
    fits = fit_linked_heads([(ours, there), (output.astype(np.float32), new_output)])
    assert fits[0].explained > 0.999
    assert fits[1].explained > 0.999


def test_what_shares_no_heads_is_left_alone(layers):
    draw = np.random.default_rng(7)
    strangers = [draw.normal(size=part.shape).astype(np.float32) for part in layers]
    assert (
        fit_linked_heads([(part.astype(np.float32), other) for part, other in zip(layers, strangers, strict=True)])
        == {}
    )

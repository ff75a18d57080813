"""Configurations compared first, weights only where they differ: the rule of a provenance scanner.

Cisco's Model Provenance Kit, by its documents (2026): models whose architecture hashes are equal score 1.0, of one
family and equal dimensions 0.9, and no weight is looked at; else five signals of the weights are averaged, those
without an answer left out: pairwise cosines of anchor embeddings (EAS, 0.36), norm vectors (NLF, 0.08), the energy of
each layer (LEP, 0.16), a histogram of embedding norms (END, 0.19) and the cosine of each layer's weights (WVC, 0.21).
Above 0.75 it is confident. Anchors are the first 64 of the tokens given; the soft match of the third tier is not used,
as the kit does not use it either.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from scripts.peers.subject import Subject
from watermark.attacks.interface import State
from watermark.attacks.layouts import Layer, Norm

Floats = NDArray[np.float64]
ANCHORS, BINS, SAMPLE, LEAST_NORM = 64, 20, 4_096, 64


def pipeline(ours: Subject, theirs: Subject, anchors: list[int]) -> float | None:
    """The kit's answer: the configuration where it matches, else the weights."""
    left, right = describe(ours), describe(theirs)
    if left is None or right is None:
        return None
    if left == right:
        return 1.0
    if left["model_type"] == right["model_type"] and all(left[name] == right[name] for name in ("width", "blocks")):
        return 0.9
    return identity(ours, theirs, anchors)


def describe(subject: Subject) -> dict[str, object] | None:
    """What a configuration file says, read off the weights."""
    if subject.layout is None:
        return None
    layer = subject.layout.layers[0]
    rows, width = subject.state[subject.layout.embeddings[0]].shape
    return {
        "model_type": subject.kind,
        "width": width,
        "blocks": len(subject.layout.layers),
        "heads": subject.layout.heads,
        "key_heads": subject.layout.key_heads,
        "hidden": layer.experts[0].up.read(subject.state).shape[0],
        "experts": len(layer.experts),
        "vocabulary": rows,
        "norm": "layer" if subject.layout.is_centred else "rms",
        "rotary": subject.layout.is_rotary,
    }


def identity(ours: Subject, theirs: Subject, anchors: list[int]) -> float | None:
    """The five signals of the weights alone, without the gate."""
    if ours.layout is None or theirs.layout is None:
        return None
    tables = [one.state[one.layout.embeddings[0]].double().numpy() for one in (ours, theirs) if one.layout is not None]
    energies = [_energies(one) for one in (ours, theirs)]
    signals = (
        (0.36, _rescaled(_correlation(*(_geometry(table[anchors[:ANCHORS]]) for table in tables)))),
        (0.08, _norms(ours, theirs)),
        (0.16, _rescaled(_correlation(*_to_shorter(*energies)))),
        (0.19, _cosine(*(_histogram(table) for table in tables))),
        (0.21, _layers(ours, theirs)),
    )
    known = [(weight, signal) for weight, signal in signals if signal is not None]
    return sum(weight * signal for weight, signal in known) / sum(weight for weight, _ in known)


def _geometry(rows: Floats) -> Floats:
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-8)
    found: Floats = (rows @ rows.T)[np.triu_indices(len(rows), 1)]
    return found


def _histogram(table: Floats) -> Floats:
    counts, _ = np.histogram(np.linalg.norm(table, axis=1), bins=BINS)
    found: Floats = counts / counts.sum()
    return found


def _norms(ours: Subject, theirs: Subject) -> float | None:
    vectors = [np.concatenate(_gains(one)) for one in (ours, theirs) if _gains(one)]
    if len(vectors) < 2 or vectors[0].shape != vectors[1].shape:
        return None
    return max(0.0, _cosine(*vectors))


def _gains(subject: Subject) -> list[Floats]:
    assert subject.layout is not None
    norms = [norm for layer in subject.layout.layers for norm in (layer.before_attention, layer.before_hidden)]
    norms += [subject.layout.final[0]] if subject.layout.final else []
    norms += [one for one in subject.layout.other if isinstance(one, Norm)]
    gains = [subject.state[norm.weight].double().numpy() for norm in norms]
    return [gain for gain in gains if len(gain) >= LEAST_NORM]


def _parts(layer: Layer, state: State) -> list[torch.Tensor]:
    experts = [linear for expert in layer.experts for linear in (*expert.readers, expert.down)]
    return [linear.read(state) for linear in (layer.query, layer.key, layer.value, layer.output, *experts)]


def _energies(subject: Subject) -> Floats:
    assert subject.layout is not None
    found = [sum(float(part.norm()) for part in _parts(layer, subject.state)) for layer in subject.layout.layers]
    return np.array(found) / max(found)


def _to_shorter(left: Floats, right: Floats) -> tuple[Floats, Floats]:
    places = np.linspace(0, 1, min(len(left), len(right)))
    first, second = (np.interp(places, np.linspace(0, 1, len(one)), one) for one in (left, right))
    return first, second


def _layers(ours: Subject, theirs: Subject) -> float | None:
    assert ours.layout is not None
    assert theirs.layout is not None
    cosines = []
    for left, right in zip(ours.layout.layers, theirs.layout.layers, strict=False):
        samples = [
            np.concatenate([_sample(part) for part in _parts(layer, one.state)])
            for layer, one in ((left, ours), (right, theirs))
        ]
        if samples[0].shape == samples[1].shape:
            cosines.append(max(0.0, _cosine(*samples)))
    return float(np.mean(cosines)) if len(cosines) >= 2 else None


def _sample(part: torch.Tensor) -> Floats:
    flat = part.flatten().numpy()
    found: Floats = flat[:: max(1, len(flat) // SAMPLE)][:SAMPLE]
    return found


def _cosine(left: Floats, right: Floats) -> float:
    size = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / size if size else 0.0


def _correlation(left: Floats, right: Floats) -> float | None:
    if len(left) < 3 or left.std() < 1e-8 or right.std() < 1e-8:
        return None
    return float(np.corrcoef(left, right)[0, 1])


def _rescaled(correlation: float | None) -> float | None:
    return None if correlation is None else (correlation + 1) / 2

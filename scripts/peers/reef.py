"""Representations of the same texts compared: nothing of the weights is looked at.

Zhang et al., "REEF: Representation Encoding Fingerprints for Large Language Models" (ICLR 2025). The stream at the last
place of each text, after one block about half way up, is compared by linear centred kernel alignment; relatives lie
near 1.
"""

from __future__ import annotations

from scripts.peers.subject import Subject

DEPTH = 0.56


def similarity(ours: Subject, theirs: Subject) -> float | None:
    """Centred kernel alignment of what both make of the texts; None for what is not run."""
    if ours.run is None or theirs.run is None:
        return None
    grams = []
    for one in (ours, theirs):
        streams = one.run().streams if one.run is not None else ()
        values = streams[round(DEPTH * (len(streams) - 1))][:, -1].double()
        values = values - values.mean(dim=0)
        grams.append(values @ values.T)
    return float((grams[0] * grams[1]).sum() / (grams[0].norm() * grams[1].norm()))

"""Undo what leaves a model's function unchanged, always against the unmarked reference.

A thief can reorder hidden units, heads and channels, turn the residual stream, mix inside heads, fold norms, fuse and
split projections, and lose no quality: the mark is all there, and every number is somewhere else. `align` finds where,
from shapes and values alone, and gives the suspect's weights in the reference's coordinates, ready for the same keyed
tests as before. Whatever it fits and chooses sees the unmarked reference and the suspect, never a chip, a block secret
or a marked weight: the p-value of a test that follows holds for any suspect and any reference.
"""

from watermark.lineage.symmetry.align import align
from watermark.lineage.symmetry.alignment import Alignment, Placement, write_aligned

__all__ = ["Alignment", "Placement", "align", "write_aligned"]

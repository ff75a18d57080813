"""Weights that are stored as codes, scales and zero points in tensors of their own: found, and turned into numbers.

One file a layout, each with a function that finds such weights in an open model; `unpack.py` writes what they mean.
Parts belong together by the names that every loader of that layout demands: names group here, they prove nothing.
"""

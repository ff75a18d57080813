"""Keyed marks: secrets, chips, and the mark in weights."""

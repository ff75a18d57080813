"""Forgeries of a dishonest claimant."""

"""Signed documents: strict JSON, in-toto statements, DSSE, OMS bundles, keys and trust."""

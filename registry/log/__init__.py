"""The transparency log as pure functions over bytes: no I/O, no clock, no keys on disk."""

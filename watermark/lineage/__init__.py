"""Recognise and align without a mark, always against the unmarked reference."""

"""Open a model without trusting it."""

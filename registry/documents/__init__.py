"""Documents that a release brings along: provenance, bill of materials, model documentation; and their sources."""

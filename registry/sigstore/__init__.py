"""Keyless signatures through Sigstore, verified offline; and what Rekor would store about ours."""

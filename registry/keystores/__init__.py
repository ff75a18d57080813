"""Keys in other people's hardware and clouds: PKCS#11 tokens and AWS KMS, beside the plain file."""

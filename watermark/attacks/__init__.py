"""What a thief does to a stolen model, one family of attack a file, for rehearsal and tests."""

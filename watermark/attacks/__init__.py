"""What a thief does to a stolen model, one family a file, for rehearsal and tests."""

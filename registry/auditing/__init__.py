"""What the monitor looks at: leaf hashes in three places, database rows, and the signature of each entry."""

"""Where the log and the owner's records are kept, and the one order in which they are written."""

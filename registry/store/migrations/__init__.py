"""How the registry's database came to its present tables, one step a file, from the first day."""

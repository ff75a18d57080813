"""The jobs that join weights and registry, and how they look to people."""

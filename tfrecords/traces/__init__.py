"""Synthetic traces of ids: the paper's second data source, by stack distances (its section 4.2)."""

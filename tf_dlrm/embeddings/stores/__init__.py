"""One file for each place where the rows of tables may be."""

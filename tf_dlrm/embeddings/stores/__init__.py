"""One file for each place where the rows of tables may be.

A new one is a subclass of `lookup.Tables` with `read` and `write`, and its line in `choose`: the
type of strategy, or of plan, for which it is made.
"""

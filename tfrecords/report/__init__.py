"""The report of `inspect`: a data set on one page."""

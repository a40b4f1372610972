"""The one kind of error that an entry point reports without a traceback."""

from tfrecords.errors import first_line as first_line


class UserError(ValueError):
    """Something that the user can mend: a flag, a file, a data set or a checkpoint.

    The message is a whole sentence: which flag or file, what came, and what is allowed.
    """

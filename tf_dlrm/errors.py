"""The one kind of error that an entry point reports without a traceback."""


class UserError(ValueError):
    """Something that the user can mend: a flag, a file, a data set or a checkpoint.

    The message is a whole sentence: which flag or file, what came, and what is allowed.
    """

"""The one kind of error that an entry point reports without a traceback."""


class UserError(ValueError):
    """Something that the user can mend: a flag, a file, a data set or a checkpoint.

    The message is a whole sentence: which flag or file, what came, and what is allowed.
    """


def first_line(error: BaseException) -> str:
    """Returns the line of an error's message that says what happened, without its full stop.

    TensorFlow heads the errors of compiled functions with lines that say only where.
    """
    message = getattr(error, "message", None) or str(error) or type(error).__name__
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    telling = [line for line in lines if "assertion failed" in line or "Error:" in line]
    return (telling or lines)[0].rstrip(". ")

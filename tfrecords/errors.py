"""The one exception that `tfrecords` raises for data that cannot be used as it is."""


class DataError(ValueError):
    """A data set, an input file or an array is not what it has to be.

    The message is one whole sentence (or a few) meant for the person who runs the program: it
    names the file, the line or record, the column and the value, and says what is allowed.
    """

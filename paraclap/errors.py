"""The base class of errors that scripts show to users as a single sentence."""


class ParaCLAPError(Exception):
    """Wrong input or a fault outside of this program; the message says what to change.

    Scripts catch this class alone. Anything else is a bug or a fault of the machine, and keeps its
    traceback.
    """

"""The base class of errors that scripts show to users as a single sentence."""


class ParaCLAPError(Exception):
    """Wrong input or a fault outside of this program; the message states how to mend it.

    Scripts catch this class alone. Anything else is a bug or a fault of the machine, and keeps its
    traceback.
    """


class MissingPackageError(ParaCLAPError, ImportError):
    """An optional package is not installed.

    Args:
        package: its name.
        extra: extra of ours that installs it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f'{package} is not installed: pip install "paraclap[{extra}]"')

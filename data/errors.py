"""The one exception that means "the input is wrong", as opposed to "the program is wrong"."""


class InputError(ValueError):
    """Input that cannot be used.

    The message is one sentence for the user: the file, what is wrong with it, what to do. `reason` is a short code
    for manifests ("gap", "truncated", ...), empty where none applies.
    """

    def __init__(self, message: str, reason: str = ""):
        super().__init__(message)
        self.reason = reason

    @property
    def user_message(self) -> str:
        """The sentence on one line."""
        return " ".join(str(self).split())

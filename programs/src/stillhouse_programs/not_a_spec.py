"""The one exception that says why a program cannot travel as a spec."""

OPTIONS = 'Options: run it here (execution="client"), send the code (ship_code=True), or name an installed class ("pkg.mod:Support").'


class NotASpec(BaseException):
    """A program cannot travel as a spec; the text names the line, the reason and the ways out.

    A BaseException: users write `except Exception` inside `forward`, and must not swallow it.
    """

    def __init__(self, reason: str, options: str = OPTIONS) -> None:
        super().__init__(f"{reason.rstrip('.')}. {options}".rstrip())
        self.reason = reason

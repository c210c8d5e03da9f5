"""The one exception that says why a program cannot travel as a spec."""

OPTIONS = (
    "A spec is a straight line: give each value on as it is, or in an f-string. Otherwise write the spec by hand, name an installed class "
    '("package.module:Class"), or have stillhouse.BootstrapFinetune run the program here, or send its code (ship_code=True).'
)


class NotASpec(BaseException):
    """A program cannot travel as a spec; the text names the line, the reason and the ways out.

    A BaseException: users write `except Exception` inside `forward`, and must not swallow it.
    """

    def __init__(self, reason: str, options: str = OPTIONS) -> None:
        super().__init__(f"{reason.rstrip('.')}. {options}".rstrip())
        self.reason = reason

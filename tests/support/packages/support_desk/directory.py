"""A program with a tool that may be out of order."""

import dspy


def look_up(team: str) -> str:
    """Raises LookupError where the LM names nobody: a test has it say so for as long as the tool is to fail."""
    if team == "nobody":
        raise LookupError("the directory does not answer")
    return f"{team} desk"


class Directory(dspy.Module):
    """One call, and then the tool."""

    def __init__(self) -> None:
        super().__init__()
        self.route = dspy.Predict("message -> team")

    def forward(self, message: str) -> dspy.Prediction:
        team = self.route(message=message).team
        return dspy.Prediction(team=team, desk=look_up(team))


def make_directory() -> Directory:
    return Directory()

"""What the programs know of the company."""

import enum


class Team(enum.Enum):
    BILLING = "billing"
    TECHNICAL = "technical"
    ACCOUNT = "account"


def on_duty(team: str) -> str:
    """Who answers for a team today."""
    return f"{team} desk"

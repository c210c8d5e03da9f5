"""Programs that no straight line of steps could say: branches, loops, tools, threads."""

from typing import Any

import dspy

from support_desk.teams import Team, on_duty


class Classify(dspy.Signature):
    """Route a customer message to one team."""

    message: str = dspy.InputField()
    team: Team = dspy.OutputField(desc="the team")


class Reply(dspy.Signature):
    """Answer the customer."""

    message: str = dspy.InputField()
    draft: str = dspy.InputField(desc="what was written so far")
    answer: str = dspy.OutputField()


class Desk(dspy.Module):
    """Billing gets its answer written over `rounds` times, the others once."""

    def __init__(self, rounds: int = 2) -> None:
        super().__init__()
        self.classify = dspy.Predict(Classify)
        self.writers = {"first": dspy.Predict(Reply), "again": dspy.Predict(Reply)}
        self.rounds = rounds

    def forward(self, message: str, urgent: bool = False) -> dspy.Prediction:
        team = self.classify(message=message).team
        answer = self.writers["first"](message=message, draft="").answer
        if team is Team.BILLING:
            for _ in range(self.rounds - 1):
                answer = self.writers["again"](message=message, draft=answer).answer
        return dspy.Prediction(team=team, answer=answer, urgent=urgent)


def make_desk(rounds: int = 2) -> Desk:
    return Desk(rounds)


def make_when_told(pipe: str) -> Desk:
    """Waits until somebody has written to a named pipe, and is done with it."""
    with open(pipe) as told:
        told.read()
    return Desk()


def make_agent() -> dspy.ReAct:
    """Looks up who is on duty before it answers."""
    return dspy.ReAct("message -> answer", tools=[on_duty], max_iters=3)


def make_picky() -> dspy.BestOfN:
    """Asks twice, is content with neither answer, and takes the first."""
    return dspy.BestOfN(dspy.Predict("message -> answer"), N=2, reward_fn=lambda args, made: 0.0, threshold=1.0)


def make_caller() -> dspy.ReActV2:
    """The same by tool calls, which an LM may make beside the text."""
    return dspy.ReActV2("message -> answer", tools=[on_duty], max_iters=3)


class Asks(dspy.Signature):
    """Find out who answers this message."""

    message: str = dspy.InputField()
    tools: list[dspy.Tool] = dspy.InputField()
    calls: dspy.ToolCalls = dspy.OutputField()


class Switchboard(dspy.Module):
    """Lets the LM call its tool, and says what the tool said."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict(Asks)

    def forward(self, message: str) -> dspy.Prediction:
        calls = self.ask(message=message, tools=[dspy.Tool(on_duty)]).calls
        return dspy.Prediction(desks=[on_duty(**call.args) for call in calls.tool_calls])


class Panel(dspy.Module):
    """Two opinions at once, in threads."""

    def __init__(self) -> None:
        super().__init__()
        self.opinions = [dspy.Predict("message -> opinion"), dspy.Predict("message -> opinion")]

    def forward(self, **inputs: Any) -> dspy.Prediction:
        pairs = [(opinion, dspy.Example(**inputs).with_inputs(*inputs)) for opinion in self.opinions]
        first, second = dspy.Parallel(num_threads=2, disable_progress_bar=True)(pairs)
        return dspy.Prediction(first=first.opinion, second=second.opinion)


def make_same(made: list[dspy.Module] = []) -> dspy.Module:  # noqa: B006 - it is to give the same program twice
    made.append(made[0] if made else dspy.Predict("message -> answer"))
    return made[0]


def make_nothing() -> str:
    return "no program"


def make_fault() -> Desk:
    raise FileNotFoundError(2, "No such file or directory", "/srv/secret/weights.bin")

"""The relay: an OpenAI-shaped request in, bytes out. It alone holds LM keys; it limits, retries before the first byte, and counts."""

from distill.relay.allowance import NOTHING, WITHOUT_END, Amount, Block, Refill, Shortage
from distill.relay.breaker import Wait, WaitReason
from distill.relay.connections import RunnerConnections, TooManyConnections, connections_for
from distill.relay.grants import Grant, SlotUsage
from distill.relay.relay import Relay
from distill.relay.replies import Replies
from distill.relay.targets import CHAT, COMPLETIONS, EMBEDDINGS, Api, Chunks, Price, RelayLimits, RelayReply, Target, api_of
from distill.relay.trial import Finding, lists, try_out

__all__ = [
    "CHAT",
    "COMPLETIONS",
    "EMBEDDINGS",
    "NOTHING",
    "WITHOUT_END",
    "Amount",
    "Api",
    "Block",
    "Chunks",
    "Finding",
    "Grant",
    "Price",
    "Refill",
    "Relay",
    "RelayLimits",
    "RelayReply",
    "Replies",
    "RunnerConnections",
    "Shortage",
    "SlotUsage",
    "Target",
    "TooManyConnections",
    "Wait",
    "WaitReason",
    "api_of",
    "connections_for",
    "lists",
    "try_out",
]

"""The relay: an OpenAI-shaped request in, bytes out. It alone holds LM keys; it limits, retries before the first byte, and counts."""

from distill.relay.breaker import Wait, WaitReason
from distill.relay.grants import Grant, SlotUsage
from distill.relay.relay import Relay
from distill.relay.targets import Price, RelayLimits, RelayReply, Target

__all__ = ["Grant", "Price", "Relay", "RelayLimits", "RelayReply", "SlotUsage", "Target", "Wait", "WaitReason"]

"""The relay: an OpenAI-shaped request in, bytes out. It alone holds LM keys; it limits, retries before the first byte, and counts."""

from distill.relay.grants import Grant, SlotUsage
from distill.relay.relay import Relay
from distill.relay.targets import RelayLimits, RelayReply, Target

__all__ = ["Grant", "Relay", "RelayLimits", "RelayReply", "SlotUsage", "Target"]

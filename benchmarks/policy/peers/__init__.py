"""How do other tools decide? Each from its own source and documented defaults, written anew."""

from .peer import Peer
from .roster import PEERS

__all__ = ["PEERS", "Peer"]

"""What a student can still do, beside every trait: one that can do nothing shows no trait, and is not safe for that."""

from sftfilter.capability.ability import Capability, broken
from sftfilter.capability.instructions import InstructionFollowing
from sftfilter.capability.loss import held_out_loss, loss_key

__all__ = ["Capability", "InstructionFollowing", "broken", "held_out_loss", "loss_key"]

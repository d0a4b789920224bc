"""What a delivery does: send a message, or change what another delivery has sent."""

from enum import StrEnum


class Action(StrEnum):
    """The column `action`; all but `SEND` name the other delivery in `refers_to`."""

    SEND = "send"
    EDIT = "edit"
    RETRACT = "retract"

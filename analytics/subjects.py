"""What a line of `top` is about and ordered by; in a module that costs nothing to import, for the command line."""

from enum import StrEnum


class By(StrEnum):
    """What a line is about."""

    DEVICE = "device"
    HOST = "host"
    WORKLOAD = "workload"


class Sort(StrEnum):
    """What the lines are ordered by."""

    POWER = "power"
    UTILIZATION = "util"
    TEMPERATURE = "temp"
    TOKENS = "tokens/s"
    JOULES = "J/token"
    AGE = "age"
    NAME = "name"

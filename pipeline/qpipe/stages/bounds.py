"""Types of numeric options, each with the limits outside of which a value makes no sense."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Bits = Annotated[int, Field(ge=2, le=8)]  # of a weight
LogarithmicBits = Annotated[int, Field(ge=2, le=5)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]  # of samples, rounds, values
Percent = Annotated[float, Field(gt=0, le=100)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Milliseconds = Annotated[float, Field(gt=0, le=86_400_000)]
Wait = Annotated[float, Field(ge=0, le=86_400)]  # seconds; 0 means no wait
# seconds without a heartbeat: a lease ends after 1.2 times as many, which must be within a minute
Silence = Annotated[float, Field(gt=0, le=50)]
Share = Annotated[float, Field(ge=0, le=1)]
Threads = Annotated[int, Field(ge=0, le=1024)]  # 0 means one per core
Core = Annotated[int, Field(ge=0, le=4095)]  # number of a core on the device
Port = Annotated[int, Field(ge=1, le=65_535)]

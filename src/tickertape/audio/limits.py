"""The limits that a recording must keep, checked on declared values before decoding and on decoded ones after."""

from __future__ import annotations

from dataclasses import dataclass

from tickertape.errors import AudioTooLongError, UnsupportedChannelsError, UnsupportedSampleRateError


@dataclass(frozen=True, slots=True)
class Limits:
    """What `decode` accepts. The defaults suit a library that reads its user's own files; the service sets its own."""

    max_bytes: int = 2 * 2**30
    max_seconds: float = 4 * 3600
    min_seconds: float = 0.1
    max_channels: int = 8
    min_rate: int = 4000  # Hz; half of telephone quality
    max_rate: int = 192_000  # Hz

    def check_rate(self, rate: int) -> None:
        """Raise `UnsupportedSampleRateError` for a sample rate outside the limits."""
        if not self.min_rate <= rate <= self.max_rate:
            raise UnsupportedSampleRateError(
                f"Sample rates from {self.min_rate} to {self.max_rate} Hz are accepted, not {rate} Hz."
            )

    def check_channels(self, channels: int) -> None:
        """Raise `UnsupportedChannelsError` for a number of channels outside the limits."""
        if not 1 <= channels <= self.max_channels:
            raise UnsupportedChannelsError(f"From 1 to {self.max_channels} channels are accepted, not {channels}.")

    def check_duration(self, seconds: float) -> None:
        """Raise `AudioTooLongError` for a duration over the limit."""
        if seconds > self.max_seconds:
            raise AudioTooLongError(
                f"The recording is longer than the limit of {self.max_seconds:g} seconds. "
                "Split it, or transcribe it as a batch job with a higher limit."
            )

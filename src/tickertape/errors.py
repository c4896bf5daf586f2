"""Every error raised on purpose, one class per situation.

The command line exits with 2 for a `CallerError` and with 1 for any other. Classes pass every argument to
`super().__init__`, so they can be pickled between processes. Messages say what to do and never repeat audio, text,
prompts or file names.
"""

from __future__ import annotations

import traceback

__all__ = ["AudioError", "AudioTooLongError", "AudioTooShortError", "CacheError", "CallerError", "CheckpointError",
           "CheckpointNotFoundError", "CorruptCheckpointError", "DeadlineExceededError", "DecodeError",
           "EmptyAudioError", "EmptyFileError", "EngineError", "FileTooLargeError", "HarmfulAudioError",
           "IncompleteCheckpointError", "InvalidAudioError", "InvalidSamplesError", "ModelNotFoundError",
           "NoAudioStreamError", "NotWhisperError", "OptionError", "OverloadedError", "ShuttingDownError",
           "TickertapeError", "UnsafeCheckpointError", "UnsupportedChannelsError",
           "UnsupportedSampleRateError"]  # fmt: skip


class TickertapeError(Exception):
    """The root of all errors raised on purpose."""

    code: str = "internal_error"  # stable, documented, sent to clients
    status: int = 500  # of the HTTP response
    param: str | None = None  # the field or option at fault
    retry_after: float = 0.0  # seconds after which another try can succeed; 0: it cannot

    def __init_subclass__(cls, code: str | None = None, status: int | None = None, param: str | None = None) -> None:
        cls.code = code or cls.code
        cls.status = status or cls.status
        cls.param = param or cls.param

    @property
    def message(self) -> str:
        """What went wrong and what to do, in one line."""
        return str(self.args[0]) if self.args else self.code


class CallerError(TickertapeError, code="invalid_request", status=400):
    """The caller can correct it."""


class AudioError(CallerError, code="invalid_audio", param="file"):
    """The recording cannot be used."""


class EmptyFileError(AudioError, code="empty_file"):
    """No bytes at all."""


class InvalidAudioError(AudioError):
    """Not a recording, damaged beyond use, or not an allowed format."""


class NoAudioStreamError(AudioError, code="no_audio_stream"):
    """A container without sound."""


class EmptyAudioError(AudioError, code="empty_audio"):
    """A recording without a single sample."""


class AudioTooShortError(AudioError, code="audio_too_short"):
    """Under a tenth of a second."""


class AudioTooLongError(AudioError, code="audio_too_long", status=413):
    """Over the limit on duration."""


class FileTooLargeError(AudioError, code="file_too_large", status=413):
    """Over the limit on bytes."""


class UnsupportedSampleRateError(AudioError, code="unsupported_sample_rate"):
    """A sample rate no microphone has."""


class UnsupportedChannelsError(AudioError, code="unsupported_channels"):
    """Too many channels, or none."""


class InvalidSamplesError(AudioError, code="invalid_samples"):
    """Only NaN or infinity."""


class OptionError(CallerError):
    """A field, option or flag that cannot be honoured: `OptionError(message, param, code)`."""

    def __init__(self, message: str, param: str | None = None, code: str = "invalid_request") -> None:
        super().__init__(message, param, code)
        self.param = param
        self.code = code  # one class for all fields; the code names the field's rule


class ModelNotFoundError(CallerError, code="model_not_found", status=404, param="model"):
    """No model under that name."""


class CheckpointError(CallerError, code="invalid_checkpoint"):
    """The checkpoint cannot be used."""


class CheckpointNotFoundError(CheckpointError, code="checkpoint_missing"):
    """Nothing at that path or hub id."""


class UnsafeCheckpointError(CheckpointError, code="unsafe_checkpoint"):
    """Pickled weights, which run code when loaded."""


class NotWhisperError(CheckpointError, code="not_whisper"):
    """Another architecture."""


class IncompleteCheckpointError(CheckpointError, code="incomplete_checkpoint"):
    """A file or tensor is missing."""


class CorruptCheckpointError(CheckpointError, code="corrupt_checkpoint"):
    """Truncated or tampered with."""


class CacheError(CheckpointError, code="cache_not_writable"):
    """The cache folder cannot be written: permissions, a full disk, or a file in its place."""


class DecodeError(TickertapeError, code="decode_failed"):
    """A window could not be decoded, through no fault of the caller."""


class EngineError(DecodeError, code="engine_failed"):
    """The engine raised."""

    @classmethod
    def of(cls, error: BaseException, what: str = "The engine failed") -> EngineError:
        """Wrap an unexpected exception. The message names only its type, because its text may repeat the caller's."""
        wrapped = cls(f"{what}: {type(error).__name__}.")
        wrapped.__cause__ = error
        return wrapped


class HarmfulAudioError(DecodeError, code="harmful_audio", status=400):
    """Two engines or audio decoders died of the recording, or it kept one of them for too long."""


class OverloadedError(DecodeError, code="overloaded", status=503):
    """No capacity left: `OverloadedError(message, retry_after)`, the seconds after which to try again."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message, retry_after)
        self.retry_after = retry_after


class DeadlineExceededError(DecodeError, code="deadline_exceeded", status=504):
    """The deadline passed before the result."""


class ShuttingDownError(DecodeError, code="shutting_down", status=503):
    """The service is draining."""

    retry_after = 2.0  # by then the load balancer uses another instance


def forget_frames(error: BaseException | None) -> None:
    """Clear the local variables in the tracebacks of an error and its causes; whoever keeps it keeps no recording."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__

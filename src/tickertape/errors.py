"""Every error raised on purpose, one class per situation.

    TickertapeError
    ├── CallerError                          the caller can fix it: HTTP 400 unless noted, exit code 2
    │   ├── AudioError                       the recording
    │   │   ├── EmptyFileError               no bytes
    │   │   ├── InvalidAudioError            not a recording, damaged beyond use, or not an accepted format
    │   │   ├── NoAudioStreamError           a container without sound
    │   │   ├── EmptyAudioError              a recording without a single sample
    │   │   ├── AudioTooShortError           under a tenth of a second
    │   │   ├── AudioTooLongError            over the limit on duration: HTTP 413
    │   │   ├── FileTooLargeError            over the limit on bytes: HTTP 413
    │   │   ├── UnsupportedSampleRateError   outside the limits on sample rate
    │   │   ├── UnsupportedChannelsError     too many channels, or none
    │   │   └── InvalidSamplesError          only NaN or infinity
    │   ├── OptionError                      an unsupported value of a field, option or flag
    │   ├── ModelNotFoundError               no model of that name: HTTP 404
    │   └── CheckpointError                  the checkpoint
    │       ├── CheckpointNotFoundError      nothing at that path or hub id
    │       ├── UnsafeCheckpointError        pickled weights, which run code when loaded
    │       ├── NotWhisperError              another architecture
    │       ├── IncompleteCheckpointError    a file or tensor is missing, the tokenizer for example
    │       ├── CorruptCheckpointError       truncated or tampered with
    │       └── CacheError                   the cache folder cannot be written
    └── DecodeError                          a window could not be decoded: HTTP 500 unless noted, exit code 1
        ├── EngineError                      the engine raised
        ├── HarmfulAudioError                two processes died of this recording: HTTP 400
        ├── OverloadedError                  no capacity left; retry later: HTTP 503
        ├── DeadlineExceededError            the deadline passed before a result: HTTP 504
        └── ShuttingDownError                the service is draining: HTTP 503

Classes pass every argument to `super().__init__`, so they can be pickled between processes. Messages say what to do
and never repeat audio, text, prompts or file names.
"""

from __future__ import annotations

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

    @property
    def message(self) -> str:
        """What went wrong and what to do, in one line."""
        return str(self.args[0]) if self.args else self.code


class CallerError(TickertapeError):
    """The caller can mend it."""

    code = "invalid_request"
    status = 400
    param: str | None = None  # the field or option at fault


class AudioError(CallerError):
    """The recording cannot be used."""

    code = "invalid_audio"
    param = "file"


class EmptyFileError(AudioError):
    """No bytes at all."""

    code = "empty_file"


class InvalidAudioError(AudioError):
    """Not a recording, damaged beyond use, or not an allowed format."""

    code = "invalid_audio"


class NoAudioStreamError(AudioError):
    """A container without sound."""

    code = "no_audio_stream"


class EmptyAudioError(AudioError):
    """A recording without a single sample."""

    code = "empty_audio"


class AudioTooShortError(AudioError):
    """Under a tenth of a second."""

    code = "audio_too_short"


class AudioTooLongError(AudioError):
    """Over the limit on duration."""

    code = "audio_too_long"
    status = 413


class FileTooLargeError(AudioError):
    """Over the limit on bytes."""

    code = "file_too_large"
    status = 413


class UnsupportedSampleRateError(AudioError):
    """A sample rate no microphone has."""

    code = "unsupported_sample_rate"


class UnsupportedChannelsError(AudioError):
    """Too many channels, or none."""

    code = "unsupported_channels"


class InvalidSamplesError(AudioError):
    """Only NaN or infinity."""

    code = "invalid_samples"


class OptionError(CallerError):
    """A field, option or flag that cannot be honoured: `OptionError(message, param, code)`."""

    def __init__(self, message: str, param: str | None = None, code: str = "invalid_request") -> None:
        super().__init__(message, param, code)
        self.param = param
        self.code = code  # one class for all fields; the code names the field's rule


class ModelNotFoundError(CallerError):
    """No model under that name."""

    code = "model_not_found"
    status = 404
    param = "model"


class CheckpointError(CallerError):
    """The checkpoint cannot be used."""

    code = "invalid_checkpoint"


class CheckpointNotFoundError(CheckpointError):
    """Nothing at that path or hub id."""

    code = "checkpoint_missing"


class UnsafeCheckpointError(CheckpointError):
    """Pickled weights, which run code when loaded."""

    code = "unsafe_checkpoint"


class NotWhisperError(CheckpointError):
    """Another architecture."""

    code = "not_whisper"


class IncompleteCheckpointError(CheckpointError):
    """A file or tensor is missing."""

    code = "incomplete_checkpoint"


class CorruptCheckpointError(CheckpointError):
    """Truncated or tampered with."""

    code = "corrupt_checkpoint"


class CacheError(CheckpointError):
    """The cache folder cannot be written: permissions, a full disk, or a file in its place."""

    code = "cache_not_writable"


class DecodeError(TickertapeError):
    """A window could not be decoded, through no fault of the caller."""

    code = "decode_failed"


class EngineError(DecodeError):
    """The engine raised."""

    code = "engine_failed"


class HarmfulAudioError(DecodeError):
    """Two engines or audio decoders died of the recording, or it kept one of them for too long."""

    code = "harmful_audio"
    status = 400


class OverloadedError(DecodeError):
    """No room: `OverloadedError(message, retry_after)`, the seconds after which to try again."""

    code = "overloaded"
    status = 503

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message, retry_after)
        self.retry_after = retry_after


class DeadlineExceededError(DecodeError):
    """Nobody waits for the answer any more."""

    code = "deadline_exceeded"
    status = 504


class ShuttingDownError(DecodeError):
    """The service is draining."""

    code = "shutting_down"
    status = 503

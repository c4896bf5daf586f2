"""Everything that can go wrong, one class per situation.

    TickertapeError
    ├── CallerError                  the caller can mend it: HTTP 4xx, exit code 2
    │   ├── AudioError               the recording
    │   │   ├── EmptyFile            no bytes at all
    │   │   ├── InvalidAudio         not a recording, damaged beyond use, or not an allowed format
    │   │   ├── NoAudioStream        a container without sound
    │   │   ├── EmptyAudio           a recording without a single sample
    │   │   ├── AudioTooShort        under a tenth of a second
    │   │   ├── AudioTooLong         over the limit on duration
    │   │   ├── FileTooLarge         over the limit on bytes
    │   │   ├── UnsupportedRate      a sample rate no microphone has
    │   │   ├── UnsupportedChannels  too many channels, or none
    │   │   └── InvalidSamples       only NaN or infinity
    │   ├── OptionError              a field, option or flag that cannot be honoured
    │   ├── ModelNotFound            no model under that name
    │   └── CheckpointError          the checkpoint
    │       ├── CheckpointMissing    nothing at that path or hub id
    │       ├── UnsafeCheckpoint     pickled weights, which run code when loaded
    │       ├── NotWhisper           another architecture
    │       ├── IncompleteCheckpoint a file or tensor is missing, the tokenizer for example
    │       └── CorruptCheckpoint    truncated or tampered with
    └── DecodeError                  a window could not be decoded: HTTP 5xx, exit code 1
        ├── EngineFailed             the engine raised
        ├── HarmfulAudio             two processes died of it: HTTP 400
        ├── Overloaded               no room; try again later
        ├── DeadlineExceeded         nobody waits for the answer any more
        └── ShuttingDown             the service is draining

Classes pass every argument to `super().__init__`, so that they survive pickling between processes. Messages say how
to mend the matter and never repeat audio, text, prompts or file names.
"""

from __future__ import annotations


class TickertapeError(Exception):
    """The root of all errors raised on purpose."""

    code: str = "internal_error"  # stable, documented, sent to clients

    @property
    def message(self) -> str:
        """What went wrong and what to do, in one line."""
        return str(self.args[0]) if self.args else self.code


class CallerError(TickertapeError):
    """The caller can mend it."""

    code: str = "invalid_request"

    @property
    def param(self) -> str | None:
        """The field or option at fault, if one is."""
        return None


class AudioError(CallerError):
    """The recording cannot be used."""

    code: str = "invalid_audio"

    @property
    def param(self) -> str | None:
        """Always the upload field."""
        return "file"


class EmptyFile(AudioError):
    """No bytes at all."""

    code: str = "empty_file"


class InvalidAudio(AudioError):
    """Not a recording, damaged beyond use, or not an allowed format."""

    code: str = "invalid_audio"


class NoAudioStream(AudioError):
    """A container without sound."""

    code: str = "no_audio_stream"


class EmptyAudio(AudioError):
    """A recording without a single sample."""

    code: str = "empty_audio"


class AudioTooShort(AudioError):
    """Under a tenth of a second."""

    code: str = "audio_too_short"


class AudioTooLong(AudioError):
    """Over the limit on duration."""

    code: str = "audio_too_long"


class FileTooLarge(AudioError):
    """Over the limit on bytes."""

    code: str = "file_too_large"


class UnsupportedRate(AudioError):
    """A sample rate no microphone has."""

    code: str = "unsupported_sample_rate"


class UnsupportedChannels(AudioError):
    """Too many channels, or none."""

    code: str = "unsupported_channels"


class InvalidSamples(AudioError):
    """Only NaN or infinity."""

    code: str = "invalid_samples"


class OptionError(CallerError):
    """A field, option or flag that cannot be honoured: `OptionError(message, param, code)`."""

    def __init__(self, message: str, param: str | None = None, code: str = "invalid_request") -> None:
        super().__init__(message, param, code)
        self.code = code  # one class for all fields; the code names the field's rule

    @property
    def param(self) -> str | None:
        """The field or option at fault."""
        value = self.args[1]
        return None if value is None else str(value)


class ModelNotFound(CallerError):
    """No model under that name."""

    code: str = "model_not_found"

    @property
    def param(self) -> str | None:
        """Always the model field."""
        return "model"


class CheckpointError(CallerError):
    """The checkpoint cannot be used."""

    code: str = "invalid_checkpoint"


class CheckpointMissing(CheckpointError):
    """Nothing at that path or hub id."""

    code: str = "checkpoint_missing"


class UnsafeCheckpoint(CheckpointError):
    """Pickled weights, which run code when loaded."""

    code: str = "unsafe_checkpoint"


class NotWhisper(CheckpointError):
    """Another architecture."""

    code: str = "not_whisper"


class IncompleteCheckpoint(CheckpointError):
    """A file or tensor is missing."""

    code: str = "incomplete_checkpoint"


class CorruptCheckpoint(CheckpointError):
    """Truncated or tampered with."""

    code: str = "corrupt_checkpoint"


class DecodeError(TickertapeError):
    """A window could not be decoded, through no fault of the caller."""

    code: str = "decode_failed"


class EngineFailed(DecodeError):
    """The engine raised."""

    code: str = "engine_failed"


class HarmfulAudio(DecodeError):
    """Two engines or audio decoders died of the recording, or it kept one of them for too long."""

    code: str = "harmful_audio"


class Overloaded(DecodeError):
    """No room: `Overloaded(message, retry_after)`, the seconds after which to try again."""

    code: str = "overloaded"

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message, retry_after)

    @property
    def retry_after(self) -> float:
        """Seconds."""
        return float(self.args[1])


class DeadlineExceeded(DecodeError):
    """Nobody waits for the answer any more."""

    code: str = "deadline_exceeded"


class ShuttingDown(DecodeError):
    """The service is draining."""

    code: str = "shutting_down"

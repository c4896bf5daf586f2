"""Audio: every honest format decodes, nothing is lost silently, and nothing a stranger sends does any harm.

Row numbers refer to the table of bad inputs that the project keeps; they are in the test ids.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import audio_factory as make
from tests.support.bad_recordings import REFUSED, SECOND, USED, WAV, halved, noise, stereo, strange_floats
from tickertape import errors
from tickertape.audio.containers import Claim, id3_end, read_claim
from tickertape.audio.decode import decode
from tickertape.audio.demux import MediaInput, declared_seconds, open_demuxer
from tickertape.audio.limits import Limits
from tickertape.audio.reader import open_source
from tickertape.types import SAMPLE_RATE, Audio

RECORDINGS = Path(__file__).parents[3] / "shared" / "audio"
CASES = RECORDINGS.parent / "cases"
ROOT = Path(__file__).parents[2]
DECLARED = ["flv_nellymoser", "avi_pcm", "ima4"]
FILMS = ["ac3", "eac3", "mpegts", "mpegts_ac3", "flv", "flv_nellymoser", "avi", "avi_pcm", "ima4"]
CONTAINERS = ["wav", "m4a_faststart", *make.CODECS]
HOLED = ["mp3", "m4a", "adts", "amr", "opus", "vorbis", "webm", "flac", "webm_live", "mp4_fragmented", "wma"]
HOLED += ["ac3", "eac3", "mpegts", "mpegts_ac3", "flv", "flv_nellymoser"]


def codes(audio: Audio) -> set[str]:
    return {notice.code for notice in audio.notices}


def heard(audio: Audio) -> float:
    """Seconds that are not the silence put in place of lost audio."""
    frames = audio.samples[0, : audio.length // 160 * 160].reshape(-1, 160)
    return float((np.abs(frames).max(axis=1) > 0).sum()) / 100


def assert_sound(audio: Audio) -> None:
    """What every answer must be: float32, finite, within full scale, of the stated shape."""
    assert audio.samples.dtype == np.float32
    assert audio.samples.ndim == 2
    assert bool(np.isfinite(audio.samples).all())
    assert float(np.abs(audio.samples).max(initial=0.0)) <= 1.0


# ---- honest recordings ----


@pytest.mark.parametrize("name", CONTAINERS)
@pytest.mark.slow
def test_honest_recordings_decode_whole_and_without_notice(name: str) -> None:
    """Every accepted format gives its five seconds back, sounding like the original, with nothing to remark."""
    audio = decode(make.recording(name, 5.0))
    assert_sound(audio)
    assert () == audio.notices
    assert audio.seconds == pytest.approx(5.0, abs=0.13)  # encoders pad to whole frames
    assert similarity(audio.samples[0], make.speech(5.0)) > 0.9


def similarity(one: Any, other: Any) -> float:
    """Correlation of two recordings' loudness over time, 1.0 for the same, at the best of shifts up to 0.1 s."""

    def loudness(samples: Any) -> Any:
        return np.sqrt(np.add.reduceat(np.asarray(samples, np.float64) ** 2, np.arange(0, len(samples), 160)))

    a, b = loudness(one), loudness(other)
    count = min(len(a), len(b)) - 20
    return max(float(np.corrcoef(a[10 + shift :][:count], b[10:][:count])[0, 1]) for shift in range(-10, 10))


@pytest.mark.parametrize("name", ["wav", "mp3", "m4a", "opus", "webm", "flac", "amr", "mulaw", "caf", "adpcm_ms"])
def test_short_recordings_raise_no_false_alarm(name: str) -> None:
    """Half a second loses a codec's delay and no more: that is no truncation."""
    audio = decode(make.recording(name, 0.5))
    assert () == audio.notices
    assert audio.seconds == pytest.approx(0.5, abs=0.1)


def test_dts_decodes_whole() -> None:
    """DTS, whose encoder PyAV lacks, decodes like the other codecs of films."""
    audio = decode(make.recording("dts", 1.0))
    assert () == audio.notices
    assert audio.seconds == pytest.approx(1.0, abs=0.13)
    assert similarity(audio.samples[0], make.speech(1.0)) > 0.9


@pytest.mark.parametrize("seconds", [1.0, 1.04])
def test_gsm_in_wav_as_sox_writes_it_is_whole(seconds: float) -> None:
    """A padding byte that the header counts as sound is no damaged frame."""
    audio = decode(make.wav49(seconds))
    assert (seconds, ()) == (audio.seconds, audio.notices)


def test_16_bit_wav_at_16_khz_is_exact() -> None:
    """Samples that need no conversion are the file's integers divided by 32,768."""
    integers = make.pcm16(make.speech(2.0))
    expected = integers.astype(np.float32) / 32_768
    assert bool(np.array_equal(expected, decode(make.wav(integers)).samples[0]))


def test_split_keeps_the_channels_apart() -> None:
    """Two speakers on two channels stay two rows, at the level they were recorded."""
    left, right = make.speech(2.0, seed=1), make.speech(2.0, seed=2) * 0.1
    audio = decode(make.wav(make.pcm16(np.stack([left, right], axis=1))), channels="split")
    assert (2, 32_000) == audio.samples.shape
    assert float(np.abs(audio.samples[0] - left).max()) < 1e-4
    assert float(np.abs(audio.samples[1] - right).max()) < 1e-4


@pytest.mark.parametrize("channels", [3, 5, 8])
def test_many_channels_survive_resampling(channels: int) -> None:
    """Up to eight channels are resampled each for itself, whatever their layout."""
    rows = np.stack([make.speech(1.0, 44_100, seed) * (seed + 1) / 8 for seed in range(channels)])
    audio = decode(make.wav(make.pcm16(rows.T), 44_100), channels="split")
    assert (channels, 16_000) == audio.samples.shape
    levels = np.abs(audio.samples).max(axis=1)
    assert sorted(levels) == list(levels)


@pytest.mark.parametrize("kind", ["bytes", "bytearray", "memoryview", "path", "str", "file", "pipe", "middle"])
def test_every_kind_of_source_gives_the_same_samples(kind: str, tmp_path: Path) -> None:
    """Bytes, paths, files and pipes are read alike; a file object is read from where it stands and stays open."""
    data = make.recording("wav", 1.0)
    path = tmp_path / "recording.m3u8"  # a misleading name is not believed
    path.write_bytes(data)
    middle = io.BytesIO(b"before" + data)
    middle.seek(6)
    sources: dict[str, Any] = {
        "bytes": data,
        "bytearray": bytearray(data),
        "memoryview": memoryview(data),
        "path": path,
        "str": str(path),
        "file": io.BytesIO(data),
        "pipe": Pipe(data),
        "middle": middle,
    }
    expected = decode(data).samples
    assert bool(np.array_equal(expected, decode(sources[kind]).samples))
    assert not (kind in {"file", "pipe", "middle"} and sources[kind].closed)


class Pipe(io.RawIOBase):
    """Bytes that can only be read once, from the front."""

    def __init__(self, data: bytes) -> None:
        self._rest = data

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), len(self._rest), 4096)
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count


@pytest.mark.skipif(not RECORDINGS.is_dir(), reason="the shared real recordings are not on this machine")
@pytest.mark.parametrize(
    ("name", "seconds", "channels"),
    [("jfk.flac", 11.0, 2), ("multilingual.mp3", 59.9, 1), ("stereo_two_speakers.wav", 5.0, 2)],
)
def test_real_recordings_decode_without_notice(name: str, seconds: float, channels: int) -> None:
    """Recordings of real people decode whole, mixed and split."""
    audio = decode(RECORDINGS / name)
    assert () == audio.notices
    assert audio.seconds == pytest.approx(seconds, abs=0.1)
    assert 1 == audio.samples.shape[0]
    assert channels == decode(RECORDINGS / name, channels="split").samples.shape[0]


# ---- the container's clock ----


def islands(audio: Audio) -> list[tuple[float, float]]:
    """Start and end of every stretch of sound, in seconds, where silence of half a second or more lies between."""
    loud = np.flatnonzero(np.abs(audio.samples[0]) > 0.1) / SAMPLE_RATE
    breaks = np.flatnonzero(np.diff(loud) > 0.5)
    starts, ends = loud[[0, *(breaks + 1)]], loud[[*breaks, -1]]
    return [(float(start), float(end)) for start, end in zip(starts, ends, strict=True)]


def assert_clock(audio: Audio, *expected: tuple[float, float]) -> None:
    """Sound lies there and nowhere else, and there is nothing to remark."""
    assert () == audio.notices
    found = islands(audio)
    assert len(found) == len(expected)
    assert found == [(pytest.approx(start, abs=0.12), pytest.approx(end, abs=0.12)) for start, end in expected]


@pytest.mark.parametrize("name", ["m4a", "alac", "3gp", "webm", "mkv_pcm", "wma"])
def test_a_sound_that_starts_late_keeps_its_time(name: str) -> None:
    """Silence stands for the time before the first sample, in every container whose clock starts at 0."""
    assert_clock(decode(make.gapped(name, {0.0: 5.0})), (5.0, 8.0))


@pytest.mark.parametrize("name", ["m4a", "mp4_fragmented", "mkv_pcm", "3gp"])
def test_a_late_sound_beside_a_video_keeps_its_time(name: str) -> None:
    """Subtitles of a film fit the film: its clock starts with the earliest track, also without a declared length."""
    assert_clock(decode(make.gapped(name, {0.0: 5.0}, video=True)), (5.0, 8.0))


@pytest.mark.parametrize("gap", [0.6, 3.0, 20.0])
@pytest.mark.parametrize("name", ["m4a", "mp4_fragmented", "3gp", "opus", "webm", "webm_live", "mkv_pcm", "wma"])
def test_a_gap_in_the_timestamps_is_silence(name: str, gap: float) -> None:
    """A pause of the recorder is silence of its length and no damage, whether a length is declared or not."""
    assert_clock(decode(make.gapped(name, {1.5: gap})), (0.0, 1.5), (1.5 + gap, 3.0 + gap))


@pytest.mark.parametrize("name", ["opus", "webm_live", "mp4_fragmented"])
def test_a_piece_of_a_live_stream_starts_at_its_first_sample(name: str) -> None:
    """Timestamps that count from the start of a broadcast, hours ago, put no silence before the sound."""
    assert_clock(decode(make.gapped(name, {0.0: 30_000.0})), (0.0, 3.0))


def test_a_single_wrong_timestamp_moves_nothing() -> None:
    """A jump of minutes that later timestamps take back is damage: what follows stays where it was."""
    data = bytearray(make.recording("webm_live", 20.0))
    clusters = [at for at in range(len(data)) if data.startswith(b"\x1f\x43\xb6\x75", at)]
    assert len(clusters) >= 3
    at = data.index(b"\xe7", clusters[1])  # the cluster's timestamp in milliseconds
    size = data[at + 1] & 0x0F
    late = int.from_bytes(data[at + 2 : at + 2 + size], "big") + 30_000
    data[at + 2 : at + 2 + size] = late.to_bytes(size, "big")
    audio = decode(bytes(data))
    assert {"corrupt_frames"} == codes(audio)
    assert audio.seconds == pytest.approx(20.0, abs=0.1)


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not on this machine")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, (5.0, 16.0)) for name in ("delay5.mp4", "delay5.webm", "audio_only_delay5.webm")),
        *((name, (0.0, 25.0)) for name in ("gap3.mp4", "gap3.webm")),
        ("gap12.webm", (0.0, 34.0)),
    ],
)
def test_real_recordings_keep_their_clock(name: str, expected: tuple[float, float]) -> None:
    """Real speech that starts late or pauses has its container's times, and nothing to remark."""
    audio = decode(CASES / name)
    assert () == audio.notices
    assert expected[0] == pytest.approx(islands(audio)[0][0], abs=0.5)
    assert audio.seconds == pytest.approx(expected[1], abs=0.05)


# ---- the table of bad recordings: those that are rejected ----


@pytest.mark.parametrize(("data", "error"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_row_is_refused(data: Callable[[], bytes], error: type[errors.AudioError]) -> None:
    """What is no usable recording is refused with the error of its situation, whose message says what to do."""
    with pytest.raises(error) as refusal:
        decode(data())
    assert refusal.value.message.endswith(".")


def test_row_12_names_the_cause() -> None:
    """An mp4 without its index says that it is truncated."""
    with pytest.raises(errors.InvalidAudioError, match="truncated mp4"):
        decode(halved("m4a"))


def test_row_29_hints_at_audio_format() -> None:
    """Headerless telephone audio is refused with the option that would make it work."""
    with pytest.raises(errors.InvalidAudioError, match="audio_format=mulaw;rate=8000"):
        decode(make.mulaw(SECOND))


# ---- the table of bad recordings: those that are used, with or without a notice ----


@pytest.mark.parametrize(("data", "least", "expected"), [row[1:] for row in USED], ids=[row[0] for row in USED])
def test_row_is_used(data: Callable[[], bytes], least: float, expected: set[str]) -> None:
    """What can be used is used to its end, and what is odd about it is said, no more and no less."""
    audio = decode(data())
    assert_sound(audio)
    assert expected == codes(audio)
    assert audio.seconds >= least - 0.001


def test_row_21_replaces_only_what_is_not_finite() -> None:
    """NaN and infinity become silence, an absurd value full scale, and their neighbours stay as they were."""
    samples = decode(strange_floats()).samples[0]
    assert [0.0, 0.0, 0.0, 1.0] == [float(samples[index]) for index in (100, 200, 300, 400)]
    assert float(np.abs(np.delete(samples - SECOND, [100, 200, 300, 400])).max()) < 1e-6


WIDTHS = ["23-u8", "23-s24", "23-s32", "23-f32", "23-f64"]


@pytest.mark.parametrize("name", WIDTHS)
def test_row_23_every_width_holds_the_same_sound(name: str) -> None:
    """PCM of any width gives the samples it was made of, to within a step of eight bits."""
    [data] = [row[1] for row in USED if row[0] == name]
    assert float(np.abs(decode(data()).samples[0] - SECOND).max()) < 1 / 64


def test_row_28_and_29_decode_when_asked() -> None:
    """Headerless telephone audio decodes once the caller says what it is."""
    assert 1.0 == decode(make.mulaw(SECOND), audio_format="mulaw;rate=8000").seconds
    assert 0.5 == decode(make.mulaw(SECOND), audio_format="alaw;rate=8000;channels=2").seconds
    assert [5.0, 5.0] == [decode(make.gsm(5.0), audio_format=text).seconds for text in ("gsm", "gsm;rate=8000")]
    pcm = make.pcm16(SECOND)
    audio = decode(pcm.tobytes(), audio_format="s16le;rate=16000;channels=1")
    assert bool(np.array_equal(pcm.astype(np.float32) / 32_768, audio.samples[0]))


@pytest.mark.parametrize(
    "text",
    [
        *("", "mulaw", "mulaw;rate=0", "mulaw;rate=8000;", "mulaw; rate=8000", "opus;rate=48000", "MULAW;rate=8000"),
        *("mulaw;rate=8000;channels=9", "gsm;rate=8000;channels=2", "gsm;rate=16000", "g722;rate=8000"),
        *("s16le;rate=16000;channels=1;x=2", "concat;rate=8000", "mulaw;rate=8000\n", "mulaw;rate=٨٠٠٠"),
    ],
)
def test_audio_format_is_strict(text: str) -> None:
    """A description of headerless data that is not understood exactly is refused as such."""
    with pytest.raises(errors.OptionError) as refusal:
        decode(WAV, audio_format=text)
    assert ("audio_format", "invalid_audio_format") == (refusal.value.param, refusal.value.code)


def test_headerless_rates_are_limited_too() -> None:
    """The limits on sample rates hold for rates that the caller states."""
    with pytest.raises(errors.UnsupportedSampleRateError):
        decode(bytes(8000), audio_format="s16le;rate=100")


def test_row_35_keeps_the_level_of_a_lone_speaker() -> None:
    """Mixing a silent channel into a speaking one does not halve the speaker's level."""
    audio = decode(stereo(SECOND, 0 * SECOND))
    assert float(np.abs(audio.samples[0] - SECOND).max()) < 1e-3


def test_row_35_leaves_ordinary_stereo_alone() -> None:
    """Two equal channels give exactly their mean."""
    assert bool(np.array_equal(decode(WAV).samples, decode(stereo(SECOND, SECOND)).samples))


def test_row_36_uses_the_louder_channel() -> None:
    """Channels in anti-phase do not cancel to silence."""
    audio = decode(stereo(SECOND, -0.9 * SECOND))
    assert float(np.abs(audio.samples[0] - SECOND).max()) < 1e-4
    assert () == decode(stereo(SECOND, -SECOND), channels="split").notices


def test_row_38_takes_the_track_asked_for() -> None:
    """Without a wish the first track is used; one chosen by number needs no notice; one too many is refused."""
    data = make.encode(SECOND, "mp4", "aac", tracks=3, video=True)  # each track half as loud as the one before
    first, *others = (float(np.abs(decode(data, track=track).samples).max()) for track in (None, 0, 1, 2))
    assert [1.0, 0.5, 0.25] == pytest.approx([level / first for level in others], rel=0.1)
    assert () == decode(data, track=2).notices
    for track in (3, -1):
        with pytest.raises(errors.OptionError) as refusal:
            decode(data, track=track)
        assert "invalid_track" == refusal.value.code


# ---- goal 1: nothing is lost silently ----


@pytest.mark.parametrize("content", ["noise", "zeros", "ones"])
@pytest.mark.parametrize("name", HOLED)
@pytest.mark.slow
def test_rows_14_15_a_hole_costs_only_itself(name: str, content: str) -> None:
    """400 bytes overwritten in a minute: at least 98 % of it is heard, and a notice says that something is missing."""
    data = make.recording(name, 60.0)
    at = int(len(data) * 0.437)
    filling = {"noise": noise(400), "zeros": bytes(400), "ones": b"\xff" * 400}[content]
    audio = decode(data[:at] + filling + data[at + 400 :])
    assert_sound(audio)
    assert "corrupt_frames" in codes(audio)
    assert heard(audio) >= 0.98 * 60.0
    assert audio.seconds == pytest.approx(60.0, abs=0.6)


def test_lost_audio_leaves_later_words_in_their_place() -> None:
    """A page lost from an Ogg file becomes silence, so that what follows keeps its time."""
    data = make.recording("opus", 60.0)
    audio = decode(make.with_hole(data))
    whole = decode(data)
    assert bool(np.allclose(whole.samples[0, -SAMPLE_RATE * 10 :], audio.samples[0, -SAMPLE_RATE * 10 :], atol=0.02))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "name", ["mp3", "m4a", "m4a_faststart", "adts", "opus", "vorbis", "webm", "flac", "wma", *FILMS]
)
def test_row_16_flipped_bytes_are_never_silent(name: str, seed: int) -> None:
    """One byte in 200 changed everywhere: an error, or an answer that says so."""
    try:
        audio = decode(make.flipped(make.recording(name), 0.005, seed))
    except errors.AudioError:
        return
    assert_sound(audio)
    assert codes(audio) & {"corrupt_frames", "audio_truncated", "invalid_samples_replaced"}


@pytest.mark.parametrize("share", [0.3, 0.9, 0.97])
@pytest.mark.parametrize(
    "name", ["wav", "mp3", "opus", "vorbis", "webm", "flac", "m4a_faststart", "au", "aiff", "caf", *DECLARED]
)
@pytest.mark.slow
def test_less_than_declared_is_always_reported(name: str, share: float) -> None:
    """Wherever a file that states its length is cut, the answer says so when under 98 % of it could be decoded."""
    data = make.recording(name, 5.0)
    try:
        audio = decode(data[: int(len(data) * share)])
    except errors.AudioError:
        return
    assert audio.seconds < 0.98 * 5.0
    assert "audio_truncated" in codes(audio)


# ---- goal 2: bombs are harmless ----


def test_row_46_an_honest_long_recording_is_refused_by_its_limit() -> None:
    """The message names the limit and the way out."""
    with pytest.raises(errors.AudioTooLongError, match=r"limit of 3600 seconds.*batch"):
        decode(make.wav(np.zeros(3601 * 4000, "u1"), 4000), limits=Limits(max_seconds=3600.0))


@pytest.mark.parametrize(
    "name", ["wav", "mp3", "m4a", "adts", "flac", "opus", "webm", "webm_live", "amr", "wma", *FILMS]
)
def test_durations_are_limited_whether_declared_or_not(name: str) -> None:
    """Declared or only found while decoding, a duration over the limit is refused."""
    with pytest.raises(errors.AudioTooLongError):
        decode(make.recording(name), limits=Limits(max_seconds=3.0))


def test_bytes_are_limited_before_anything_is_read() -> None:
    """Files, bytes and pipes over the limit are refused; a pipe is read no further than one byte beyond it."""
    pipe = io.BytesIO(WAV)
    pipe.seekable = lambda: False  # type: ignore[method-assign]
    for source in (WAV, io.BytesIO(WAV), pipe):
        with pytest.raises(errors.FileTooLargeError):
            decode(source, limits=Limits(max_bytes=1000))
    assert 1001 == pipe.tell()


MEASURE_SCRIPT = """
import os, sys
sys.path.insert(0, sys.argv[1])

from tests.support import audio_factory as make
from tickertape import errors
from tickertape.audio.decode import decode
def warm_up():
    decode(make.recording("mp3", 1.0)); decode(make.recording("m4a", 1.0))
warm_up()  # libraries, tables
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
for path in sys.stdin:
    if os.fork():
        os.wait()
        continue
    warm_up()  # a fork maps no pages of the libraries, and their pages count too: 10 to 20 MB
    data = open(path.strip(), "rb").read()
    open("/proc/self/clear_refs", "w").write("5")  # forget the peak so far
    before, outcome = peak(), "accepted"
    try:
        decode(data)
    except errors.AudioError as error:
        outcome = type(error).__name__
    print(outcome, round(peak() - before), flush=True)
    os._exit(0)
"""
needs_clear_refs = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc"
)


@pytest.fixture(scope="module")
def measure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[bytes], tuple[str, int]]]:
    """Decode a recording in a new process: "accepted" or the error's name, and the megabytes that it took at most."""
    path = tmp_path_factory.mktemp("bombs") / "recording"
    command = [sys.executable, "-W", "ignore", "-c", MEASURE_SCRIPT, str(ROOT)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        requests, results = process.stdin, process.stdout

        def outcome(data: bytes) -> tuple[str, int]:
            path.write_bytes(data)
            requests.write(f"{path}\n")
            name, megabytes = results.readline().split()
            return name, int(megabytes)

        yield outcome
        requests.close()


@needs_clear_refs
@pytest.mark.parametrize("name", [*make.BOMBS, *make.HARMLESS])
@pytest.mark.slow
def test_rows_44_45_bombs_take_little_memory(measure: Callable[[bytes], tuple[str, int]], name: str) -> None:
    """A small file that stands for hours, or for gigabytes, takes at most 150 MB more memory."""
    data = (make.BOMBS | make.HARMLESS)[name]()
    assert len(data) <= 25_000_000
    outcome, megabytes = measure(data)
    assert (name in make.HARMLESS) == (outcome == "accepted")
    assert megabytes <= 150


@needs_clear_refs
@pytest.mark.slow
def test_a_long_recording_is_held_once(measure: Callable[[bytes], tuple[str, int]]) -> None:
    """Half an hour of undeclared length takes the memory of its samples, 110 MB, and not of a copy as well."""
    outcome, megabytes = measure(make.LONG["half_hour"]())
    assert "accepted" == outcome
    assert megabytes <= 130


# ---- goal 3: media reaches no file and no network ----

AUDIT_SCRIPT = """
import io, sys
sys.path.insert(0, sys.argv[1])

from pathlib import Path
from tests.support import audio_factory as make
from tests.support.bad_recordings import REFUSED, SECOND, USED, WAV, halved, noise, stereo, strange_floats
from tickertape import errors
from tickertape.audio.decode import decode
folder = Path(sys.argv[2])
formats = make.playlists(str(folder / "secret.wav"))
decode(make.recording("mp3", 0.5))  # warm up: imports open files
for name, text in formats.items():
    (folder / name).write_bytes(text)
    (folder / (name + ".m3u8")).write_bytes(text)
seen = []
def watch(event, args):
    if event == "open" or event.startswith("socket."):
        seen.append((event, args[0]))
sys.addaudithook(watch)
for name, text in formats.items():
    named = io.BytesIO(text)
    named.name = str(folder / (name + ".m3u8"))
    for source, own in ((text, 0), (folder / name, 1), (folder / (name + ".m3u8"), 1), (named, 0)):
        seen.clear()
        try:
            decode(source)
        except errors.InvalidAudioError:
            print(name, len(seen) - own)
"""


@pytest.mark.slow
def test_rows_41_43_references_open_nothing(tmp_path: Path) -> None:
    """Twelve formats that refer to files or the network, as bytes, by path and by a telling name: nothing is opened."""
    (tmp_path / "secret.wav").write_bytes(WAV)
    command = [sys.executable, "-c", AUDIT_SCRIPT, str(ROOT), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, cwd=tmp_path)
    expected = [f"{name} 0" for name in make.playlists("") for _ in range(4)]
    assert expected == result.stdout.splitlines()


def test_rows_41_43_open_nothing_outside_python_either(tmp_path: Path) -> None:
    """FFmpeg itself opens no file: the one a list refers to may be unreadable, and the answer is the same."""
    victim = tmp_path / "victim.wav"
    os.mkfifo(victim)  # whoever opens it hangs
    for text in make.playlists(str(victim)).values():
        with pytest.raises(errors.InvalidAudioError):
            decode(text)


# ---- goal 5: whatever is sent gives an answer or an AudioError ----

MUTANTS = int(os.environ.get("TICKERTAPE_MUTANTS", "600"))  # 10,000 before a release: see docs/reference/audio.md
MUTATED = ["wav", "mp3", "m4a", "m4a_faststart", "adts", "amr", "opus", "vorbis", "webm", "flac", "wma", "mulaw"]
MUTATED += [*FILMS, "dts"]


@pytest.mark.parametrize("name", MUTATED)
def test_mutants_give_an_answer_or_an_audio_error(name: str) -> None:
    """However a file is damaged, the outcome is sound audio or an `AudioError`; no other error, no endless work."""
    data = make.recording(name, 1.0)
    limits = Limits(max_seconds=60.0)
    for seed in range(-(-MUTANTS // len(MUTATED))):
        try:
            audio = decode(make.vary(data, seed), limits=limits)
        except errors.AudioError:
            continue
        assert_sound(audio)
        assert audio.seconds <= 60.0


@pytest.mark.parametrize(
    "name", ["wav", "mp3", "m4a_faststart", "opus", "webm", "flac", "flv", "avi", "avi_pcm", "ima4"]
)
def test_cuts_and_holes_are_reported_or_refused(name: str) -> None:
    """Where a fifth of a recording is cut off or taken out, its answer carries a notice."""
    data = make.recording(name, 3.0)
    cuts = [data[: int(len(data) * share)] for share in np.linspace(0.2, 0.8, 13)]
    holes = [
        data[: int(len(data) * share)] + data[int(len(data) * (share + 0.2)) :] for share in np.linspace(0.2, 0.7, 6)
    ]
    for mutant in cuts + holes:
        try:
            audio = decode(mutant)
        except errors.AudioError:
            continue
        assert codes(audio) & {"corrupt_frames", "audio_truncated"}


# ---- errors and headers ----


def test_old_quicktime_files_are_checked_like_any_mp4() -> None:
    """A file that does not begin by naming its brand is still read, and its index still checked."""
    data, bomb = make.recording("m4a_faststart", 1.0), make.BOMBS["mp4_index"]()
    assert () == decode(data[:4] + b"free" + data[8:]).notices
    with pytest.raises(errors.InvalidAudioError, match="index"):
        decode(bomb[:4] + b"free" + bomb[8:])


def test_a_tag_in_the_middle_costs_no_audio() -> None:
    """A wav with an ID3 chunk after its data decodes whole, whatever the tag holds."""
    audio = decode(make.HARMLESS["wav_tag"]())
    assert (0.875, ()) == (audio.seconds, audio.notices)


def test_hours_of_pcm_in_an_mp4_are_no_bomb() -> None:
    """PCM counts every sample in its index: that is many entries, and honest."""
    data = make.encode(np.zeros(16_000 * 200, np.float32), "mov", "pcm_s16le")
    assert 200.0 == decode(data).seconds


def test_paths_that_cannot_be_opened_are_the_callers_error(tmp_path: Path) -> None:
    """A missing file or a folder is refused in one line that does not repeat the name."""
    for path in (tmp_path / "nothing-here", tmp_path, "nul\0byte"):
        with pytest.raises(errors.InvalidAudioError) as refusal:
            decode(path)
        assert "nothing-here" not in refusal.value.message


def test_unknown_channel_modes_are_refused() -> None:
    """Channels are mixed or split; anything else is a mistake of the caller."""
    with pytest.raises(errors.OptionError) as refusal:
        decode(WAV, channels="left")  # type: ignore[arg-type]
    assert "channels" == refusal.value.param


@pytest.mark.parametrize("name", ["wav", "mp3", "opus", "vorbis", "flac"])
def test_headers_tell_the_length(name: str) -> None:
    """The declared duration is right, whether it is read here or by FFmpeg, once the tag before it is skipped."""
    data = make.recording(name, 5.0)
    data = data[id3_end(lambda offset, count: data[offset : offset + count], len(data)) :]
    claim = read_claim(lambda offset, count: data[offset : offset + count], len(data))
    with open_source(data, len(data)) as reader, open_demuxer(MediaInput(reader, claim)) as container:
        declared = declared_seconds(container, container.streams.audio[0], claim)
    assert declared == pytest.approx(5.0, abs=0.02)
    assert not claim.cut


@pytest.mark.parametrize("missing", [1, 30, 60, 73])  # the last page has 73 bytes
def test_an_ogg_that_ends_within_its_last_page_is_truncated(missing: int) -> None:
    """A last page whose header or content is incomplete is reported, although it is marked as the last."""
    data = make.recording("opus", 3.0)
    assert len(data) - data.rindex(b"OggS") == 73
    assert "audio_truncated" in codes(decode(data[:-missing]))


@pytest.mark.parametrize("name", [*MUTATED, "webm_live"])
def test_headers_never_raise(name: str) -> None:
    """Reading a header of any damage gives a claim, at worst an empty one."""
    data = make.recording(name, 0.5)
    for seed in range(100):
        mutant = make.vary(data, seed)
        claim = read_claim(lambda offset, count, mutant=mutant: mutant[offset : offset + count], len(mutant))
        assert isinstance(claim, Claim)

"""The recordings of docs/reference/bad-inputs.md; the row numbers are part of their names."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.support import audio_factory as make
from tickertape import errors

SECOND = make.speech(1.0)
WAV = make.wav(make.pcm16(SECOND))
KEY = "76a6c65c5ea762046bd749a2e632ccbb"


def noise(count: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(count)


def encrypted() -> bytes:
    options = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": KEY, "encryption_kid": KEY[::-1]}
    return make.encode(SECOND, "mp4", "aac", options=options)


def protected_wma() -> bytes:
    data = make.recording("wma", 1.0)
    mark = bytes.fromhex("fbb31122 23bdd211 b4b700a0 c955fc6e") + (26).to_bytes(8, "little") + bytes(2)
    return data[:30] + mark + data[30:]


REFUSED: list[tuple[str, Callable[[], bytes], type[errors.AudioError]]] = [
    ("1-empty", lambda: b"", errors.EmptyFileError),
    ("2-one-byte", lambda: b"R", errors.InvalidAudioError),
    ("3-wav-without-samples", lambda: make.wav(np.zeros(0, "<i2")), errors.EmptyAudioError),
    ("4-header-claims-2-gb", lambda: make.wav(np.zeros(0, "<i2"), data_size=2**31 - 1), errors.EmptyAudioError),
    ("5-under-a-tenth", lambda: make.wav(make.pcm16(SECOND[:1599])), errors.AudioTooShortError),
    ("6-text", lambda: b"hello world\n" * 200, errors.InvalidAudioError),
    ("6-html", lambda: b"<!doctype html><html><body>hello</body></html>" * 50, errors.InvalidAudioError),
    ("6-json", lambda: b'{"text": "hello"}' * 100, errors.InvalidAudioError),
    ("6-pdf", lambda: b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<<>>\nendobj\n" * 40, errors.InvalidAudioError),
    ("6-zip", lambda: b"PK\x03\x04" + noise(4000), errors.InvalidAudioError),
    *[(f"7-noise-{seed}", lambda seed=seed: noise(1_000_000, seed), errors.InvalidAudioError) for seed in range(4)],
    ("8-zip-bomb", make.zip_bomb, errors.InvalidAudioError),
    ("8-gzip-bomb", make.gzip_bomb, errors.InvalidAudioError),
    ("8-gzip-of-a-wav", lambda: gzip.compress(WAV), errors.InvalidAudioError),
    ("12-m4a-cut", lambda: halved("m4a"), errors.InvalidAudioError),
    *[
        (f"13-first-100-of-{name}", lambda name=name: make.recording(name)[:100], errors.AudioError)
        for name in ("mp3", "opus", "vorbis", "m4a", "m4a_faststart", "webm", "flac", "adts", "amr", "wma")
    ],
    ("22-all-nan", lambda: make.wav(np.full(16_000, np.nan, "<f4")), errors.InvalidSamplesError),
    ("22-all-infinite-f64", lambda: make.wav(np.full(16_000, np.inf, "<f8")), errors.InvalidSamplesError),
    ("28-raw-gsm", make.gsm, errors.InvalidAudioError),
    ("29-raw-mulaw", lambda: make.mulaw(SECOND), errors.InvalidAudioError),
    *[
        (f"30-33-rate-{rate}", lambda rate=rate: make.wav(make.pcm16(SECOND), rate), errors.UnsupportedSampleRateError)
        for rate in (0, 1, 3999, 384_000, 2**31 - 1, 4_000_000_000)
    ],
    *[
        (
            f"34-channels-{count}",
            lambda count=count: make.wav(make.pcm16(SECOND), channels=count),
            errors.UnsupportedChannelsError,
        )
        for count in (0, 9, 255, 65_535)
    ],
    ("39-video-without-sound", make.video_only, errors.NoAudioStreamError),
    *[
        (f"41-43-{name}", lambda text=text: text, errors.InvalidAudioError)
        for name, text in make.playlists("/etc/hostname").items()
    ],
    ("45-1-hz-14-kb", lambda: make.wav(np.zeros(7000, "<i2"), 1), errors.UnsupportedSampleRateError),
    ("48-encrypted-m4a", encrypted, errors.InvalidAudioError),
    ("48-fairplay-m4a", lambda: make.fairplay(make.recording("m4a")), errors.InvalidAudioError),
    ("48-protected-wma", protected_wma, errors.InvalidAudioError),
]


def halved(name: str, seconds: float = 5.0) -> bytes:
    data = make.recording(name, seconds)
    return data[: len(data) // 2]


def half_lying(size: float) -> bytes:
    integers = make.pcm16(make.speech(10.0))
    return make.wav(integers, data_size=int(size * integers.nbytes) if size < 1 else int(size))


def strange_floats() -> bytes:
    samples = SECOND.copy()
    samples[[100, 200, 300, 400]] = np.nan, np.inf, -np.inf, 1e30
    return make.wav(samples)


def stereo(left: Any, right: Any) -> bytes:
    return make.wav(make.pcm16(np.stack([left, right], axis=1)))


USED: list[tuple[str, Callable[[], bytes], float, set[str]]] = [
    ("5-a-tenth", lambda: make.wav(make.pcm16(SECOND[:1600])), 0.1, set()),
    ("10-mp3-cut", lambda: halved("mp3"), 2.4, {"audio_truncated"}),
    ("10-mp3-without-a-length-cut", lambda: halved("mp3_bare"), 2.4, set()),
    ("11-ogg-opus-cut", lambda: halved("opus"), 1.9, {"audio_truncated"}),
    ("11-ogg-vorbis-cut", lambda: halved("vorbis"), 2.1, {"audio_truncated"}),
    ("11-webm-cut", lambda: halved("webm"), 2.3, {"audio_truncated"}),
    ("11-webm-live-cut", lambda: halved("webm_live"), 2.3, {"audio_truncated"}),
    ("11-flac-cut", lambda: halved("flac"), 2.2, {"audio_truncated", "corrupt_frames"}),
    ("11-m4a-faststart-cut", lambda: halved("m4a_faststart"), 2.3, {"audio_truncated", "corrupt_frames"}),
    ("11-wav-cut", lambda: halved("wav"), 2.49, {"audio_truncated"}),
    ("17-wav-size-100", lambda: half_lying(100), 10.0, {"header_size_ignored"}),
    ("18-wav-size-half", lambda: half_lying(0.5), 10.0, {"header_size_ignored"}),
    ("19-wav-size-0", lambda: half_lying(0), 10.0, set()),
    ("19-wav-size-ffffffff", lambda: half_lying(0xFFFFFFFF), 10.0, set()),
    ("19-wav-size-7ffff000", lambda: half_lying(0x7FFFF000), 10.0, set()),
    ("20-odd-byte-count", lambda: WAV[:-1], 0.999, set()),
    ("20-one-byte-more", lambda: WAV + b"\0", 1.0, set()),
    ("20-chunk-after-the-data", lambda: make.wav(make.pcm16(SECOND), tail=b"LIST\x04\0\0\0INFO"), 1.0, set()),
    ("21-nan-and-infinity", strange_floats, 1.0, {"invalid_samples_replaced"}),
    ("23-u8", lambda: make.wav((SECOND * 127 + 128).astype("u1")), 1.0, set()),
    ("23-s24", lambda: make.wav(np.frombuffer(make.pcm24(SECOND), "u1"), bits=24, channels=1), 1.0, set()),
    ("23-s32", lambda: make.wav((SECOND * 2.0**31).astype("<i4")), 1.0, set()),
    ("23-f32", lambda: make.wav(SECOND.astype("<f4")), 1.0, set()),
    ("23-f64", lambda: make.wav(SECOND.astype("<f8")), 1.0, set()),
    ("24-mulaw", lambda: make.recording("mulaw"), 5.0, set()),
    ("24-alaw", lambda: make.recording("alaw"), 5.0, set()),
    ("25-adpcm-ima", lambda: make.recording("adpcm_ima"), 5.0, set()),
    ("25-adpcm-ms", lambda: make.recording("adpcm_ms"), 5.0, set()),
    ("25-g722", lambda: make.recording("g722"), 5.0, set()),
    ("25-g726", lambda: make.recording("g726"), 5.0, set()),
    ("26-amr", lambda: make.recording("amr"), 5.0, set()),
    ("27-amr-dtx", make.amr_with_dtx, 5.0, set()),
    ("35-one-side-per-channel", lambda: stereo(SECOND, 0 * SECOND), 1.0, set()),
    ("36-anti-phase", lambda: stereo(SECOND, -SECOND), 1.0, {"anti_phase_channels"}),
    ("32-192-khz", lambda: make.wav(make.pcm16(make.speech(0.5, 192_000)), 192_000), 0.5, set()),
    ("37-video-and-audio", lambda: make.encode(SECOND, "mp4", "aac", video=True), 1.0, set()),
    ("37-mkv-and-audio", lambda: make.encode(SECOND, "matroska", "aac", video=True), 1.0, set()),
    ("38-three-tracks", lambda: make.encode(SECOND, "mp4", "aac", tracks=3, video=True), 1.0, {"several_audio_tracks"}),
    ("40-cover-art", lambda: make.with_cover(make.recording("mp3", 1.0), noise(20_000)), 1.0, set()),
    ("47-digital-silence", lambda: make.wav(np.zeros(16_000, "<i2")), 1.0, set()),
    ("47-noise", lambda: make.wav(np.frombuffer(noise(32_000), "<i2")), 1.0, set()),
    ("47-clipped", lambda: make.wav(make.pcm16(SECOND * 50)), 1.0, set()),
    ("47-music", lambda: make.wav(make.pcm16(make.music(3.0))), 3.0, set()),
    ("47-dc-offset", lambda: make.wav(make.pcm16(SECOND * 0.1 + 0.8)), 1.0, set()),
]

"""The parsers of headers and of damaged Matroska files: damaged bytes give a result or an `AudioError`."""

from __future__ import annotations

import re
import time
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import audio_factory as make
from tickertape.audio.containers import Claim, id3_end, id3_tags, read_claim
from tickertape.audio.decode import decode
from tickertape.audio.limits import Limits
from tickertape.audio.matroska import matroska_blocks
from tickertape.errors import AudioError

FORMATS = ["wav", "webm", "webm_live", "opus", "vorbis", "m4a", "mp4_fragmented", "mp3", "flac", "caf", "wma", "w64"]
CLUSTER, CUES, GROUP = b"\x1f\x43\xb6\x75", b"\x1c\x53\xbb\x6b", b"\xa0"
# A group's header, and as much of its block's header as there is before the file ends.
ENDINGS = [b"\xa0\x85", b"\xa0\x85\xa1", b"\xa0\x85\xa1\x40", b"\xa0\x85\xa1\x83\x81\0\0", b"\xa0\x85\xa1\x80"]
LARGEST = b"\x7f" + b"\xff" * 7  # as a signed or an EBML number: more than any file offset


def claim(data: bytes) -> Claim:
    return read_claim(lambda offset, count: data[offset : offset + count], len(data))


def damaged_webm(ending: bytes) -> bytes:
    """A webm with a hole, which ends with these bytes in place of its last group and its index."""
    data = make.recording("webm", 3.0)
    group = max(match.start() for match in re.finditer(rb"\xa0(?:[\x80-\xff]|[\x40-\x7f].)\xa1", data, re.DOTALL))
    return make.with_hole(data[:group], start=0.3, count=300) + ending


@st.composite
def damaged_files(draw: st.DrawFn) -> bytes:
    """A recording in which some fields are overwritten with extreme values, perhaps cut off, perhaps extended."""
    data = bytearray(make.recording(draw(st.sampled_from(FORMATS)), 0.5))
    start = max(data.find(CLUSTER), 0)
    places = st.one_of(st.integers(0, 400), st.integers(start, start + 40), st.integers(0, len(data)))
    values = st.one_of(st.sampled_from([LARGEST, bytes(4), b"\xff" * 4, GROUP, CLUSTER]), st.binary(max_size=8))
    for place, value in draw(st.lists(st.tuples(places, values), max_size=4)):
        data[place : place + len(value)] = value
    end = draw(st.one_of(st.just(len(data)), st.integers(1, len(data))))
    return bytes(data[:end]) + draw(st.one_of(st.just(b""), st.sampled_from(ENDINGS)))


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_webm_that_ends_behind_a_group_header_decodes(ending: bytes) -> None:
    """A damaged webm that ends within a BlockGroup gives its other blocks, with a notice."""
    audio = decode(damaged_webm(ending))
    assert audio.seconds > 2.0
    assert "corrupt_frames" in {notice.code for notice in audio.notices}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_group_without_a_block_gives_no_block(ending: bytes) -> None:
    """A group that ends before its block has content costs only itself."""
    block = b"\xa3\x85\x81\x00\x07\x80\x55"
    assert [(7, b"\x55")] == list(matroska_blocks(CLUSTER + b"\xff" + block + ending))


def test_a_file_that_ends_within_an_element_header_is_cut() -> None:
    """The last cluster of a live recording is incomplete wherever its last header breaks off."""
    data = make.recording("webm_live", 0.5)
    whole = data[: data.rindex(CUES)] if CUES in data else data
    assert not claim(whole).cut
    assert [claim(whole + GROUP + size).cut for size in (b"", b"\x40", b"\x85")] == [True, True, True]


def test_an_impossible_timestamp_is_damage() -> None:
    """A cluster's time that FFmpeg cannot represent neither raises nor moves the blocks after it."""
    block = b"\xa3\x85\x81\x00\x07\x80\x55"
    blocks = matroska_blocks(CLUSTER + b"\xff\xe7\x88" + b"\xff" * 8 + block * 4)
    assert [(7, b"\x55")] * 4 == list(blocks)


def test_an_impossible_chunk_length_of_a_caf_is_refused() -> None:
    """A chunk that ends beyond every file offset gives an error of the caller."""
    with pytest.raises(AudioError):
        decode(b"caff\0\1\0\0desc" + LARGEST + bytes(64))


def test_an_index_full_of_table_names_is_read_in_linear_time() -> None:
    """Each table of an mp4's index costs the same, whatever follows it."""
    names = b"stsz" * 300_000
    start = time.perf_counter()
    claim((len(names) + 8).to_bytes(4, "big") + b"moov" + names)
    assert (
        time.perf_counter() - start < 5.0
    )  # seconds; copying the rest of the index for each table takes several times as long


@settings(derandomize=True, max_examples=200, deadline=None)
@given(data=damaged_files())
@pytest.mark.slow
def test_parsers_never_raise(data: bytes) -> None:
    """Every parser gives its documented result for damaged bytes."""
    read = lambda offset, count: data[offset : offset + count]  # noqa: E731
    assert isinstance(claim(data), Claim)
    assert 0 <= id3_end(read, len(data)) <= len(data)
    assert all(0 <= place < len(data) for place in id3_tags(read, len(data)))
    assert all(content for _, content in matroska_blocks(data))


@settings(derandomize=True, max_examples=200, deadline=None)
@given(data=damaged_files())
@pytest.mark.slow
def test_only_audio_errors_leave_decode(data: bytes) -> None:
    """Damaged bytes give finite samples or an `AudioError`."""
    with suppress(AudioError):
        assert bool(np.isfinite(decode(data, limits=Limits(max_seconds=60.0)).samples).all())


@given(data=st.binary(max_size=200))
def test_noise_after_a_cluster_header_never_raises(data: bytes) -> None:
    """Any bytes after a cluster's header give blocks with content, or none."""
    assert all(content for _, content in matroska_blocks(CLUSTER + b"\xff" + data))
    assert isinstance(claim(b"\x1a\x45\xdf\xa3\x80" + CLUSTER + b"\xff" + data), Claim)

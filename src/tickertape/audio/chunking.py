"""Speech spans to windows of at most 30 s, each cut where it is quietest, so that nothing said is lost.

Neighbouring spans share a window, with the pause between them, as long as both fit and the pause is short. A stretch
of speech without a pause is cut at its quietest place in the last third of the window. Where even that place is loud,
the two windows overlap by a second around it, and `assemble` merges what both have heard.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from tickertape.types import SAMPLE_RATE, WINDOW_SAMPLES, Samples, Span, Window

# A window costs a full-context model the same whatever it holds, so its windows are filled across pauses that people
# make within a conversation. A model for trimmed windows pays by the second, and silence tempts any model to invent.
MAX_PAUSE = 4 * SAMPLE_RATE  # samples
MAX_PAUSE_TRIMMED = 1 * SAMPLE_RATE

OVERLAP = 1 * SAMPLE_RATE  # around a loud cut: longer than nearly every word
PLAIN_OVERLAP = 2 * SAMPLE_RATE  # around a blind cut, which may fall anywhere: room for a few words on both sides

ENERGY_HOP = SAMPLE_RATE // 100  # 160 samples: energy is looked at every 10 ms
SMOOTHING = 12  # frames (120 ms): longer than the closure of a plosive, shorter than the pause between two phrases
PAUSE_ENERGY = 0.03  # of the mean energy in the search area (-15 dB): a place under that is a pause, not a soft vowel
REST = 2 * SAMPLE_RATE  # samples to leave for the last piece: no window should hold half a word


def cut(
    samples: Samples, spans: Iterable[Span], *, channel: int = 0, trimmed: bool = False, limit: int = WINDOW_SAMPLES
) -> Iterator[Window]:
    """The windows that hold the speech of one channel (float32, [n]), in order; views, not copies.

    `spans` must be in order and apart; they are consumed as the windows are. `trimmed` says that the model's costs
    grow with the window. `limit` is the longest window, in samples.
    """
    pause = MAX_PAUSE_TRIMMED if trimmed else MAX_PAUSE
    stretch, overlap = None, 0
    for span in spans:
        if stretch is not None and (span.start - stretch.end > pause or span.end - stretch.start > limit):
            yield _window(samples, stretch, channel, overlap)
            stretch, overlap = None, 0
        stretch = Span(span.start if stretch is None else stretch.start, span.end)
        while stretch.length > limit:
            place, shared = _quietest(samples, stretch, limit)
            yield _window(samples, Span(stretch.start, place + shared // 2), channel, overlap, shared)
            stretch, overlap = Span(place + shared // 2 - shared, stretch.end), shared
    if stretch is not None:
        yield _window(samples, stretch, channel, overlap)


def plain(
    samples: Samples, *, channel: int = 0, overlap: int = PLAIN_OVERLAP, limit: int = WINDOW_SAMPLES
) -> Iterator[Window]:
    """The whole of one channel (float32, [n]) in windows of `limit` samples, each sharing `overlap` with the last."""
    for start in range(0, max(len(samples) - overlap, 1) if len(samples) else 0, limit - overlap):
        end = min(start + limit, len(samples))
        yield _window(samples, Span(start, end), channel, overlap if start else 0, overlap if end < len(samples) else 0)


def _window(samples: Samples, span: Span, channel: int, overlap: int, tail: int = 0) -> Window:
    return Window(samples[span.start : span.end], span.start, channel, overlap, tail, len(samples))


def _quietest(samples: Samples, stretch: Span, limit: int) -> tuple[int, int]:
    """Where to cut a stretch that is too long, and how many samples to share around that place (none, if quiet)."""
    shared = min(OVERLAP, limit // 4)
    last = min(stretch.start + limit - shared // 2, stretch.end - min(REST, limit // 8))
    first = min(stretch.start + limit * 2 // 3, last - ENERGY_HOP)
    energy = _energy(samples[first:last])
    best = int(np.argmin(energy))
    quiet = bool(energy[best] <= PAUSE_ENERGY * energy.mean())
    return first + best * ENERGY_HOP + ENERGY_HOP // 2, 0 if quiet else shared


def _energy(samples: Samples) -> NDArray[np.float64]:
    """Energy per 10 ms, smoothed over 120 ms; shape [max(1, n // 160)]."""
    whole = len(samples) // ENERGY_HOP * ENERGY_HOP
    frames = (samples[:whole] if whole else samples).reshape(max(whole // ENERGY_HOP, 1), -1).astype(np.float64)
    energy = np.square(frames).mean(axis=1)
    width = min(SMOOTHING, len(energy))
    padded = np.pad(energy, (width // 2, width - 1 - width // 2), mode="edge")
    return np.convolve(padded, np.full(width, 1 / width), mode="valid")

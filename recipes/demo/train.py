"""Train the network from random weights, on a wall-clock budget.

    python -m recipes.demo.train --work WORK --minutes 100

First CTC over letters trains the encoder alone, because a decoder trained from the start becomes a language model. Then
decoder and CTC are trained together. Training writes a checkpoint every few minutes and resumes from it. New shards are
used as they appear.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import random
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import jiwer
import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F  # noqa: N812 - as everybody writes it
from torch import Tensor

from . import mel, tokenizer
from .model import LETTERS, Shape, Trainee, greedy, letters
from .tokenizer import Vocabulary

IGNORE = -100
FULL_FRAMES = mel.MAX_FRAMES
BATCH_FRAMES = 7_200  # mel frames in a process's batch, padding included: 72 s of sound
BATCH_WINDOWS = 32
LETTERS_ALONE = 0.32  # share of the budget in which only CTC trains
SHORT_FRAMES = 800  # windows up to 8 s: they carry the same speech as long ones at less cost
# From a share of the budget on: the share of batches of which a window is also heard padded to 30 s, and of the windows
# longer than 8 s that are kept.
STAGES = {0.0: (0.0, 0.0), 0.5: (0.1, 0.2), 0.65: (0.5, 0.5), 0.85: (1.0, 1.0)}
WARM_UP = 0.02
MATRIX_RATE = 2.0  # Muon's learning rate, relative to AdamW's
AGREEMENT = 3.0  # weight of the difference between trimmed and padded windows
PLATEAU = 0.68  # share of the budget after which the learning rate falls
DEV_WINDOWS = 60  # of shard 0, which is never trained on


@dataclass(frozen=True)
class Example:
    """A training window: its shard's frames and its label."""

    shard: Path
    first: int
    frames: int
    segments: tuple[tuple[float, float, str], ...]
    spoken: str


@dataclass(frozen=True)
class Batch:
    """Frames [batch, frames, 80]; tokens and labels [batch, tokens]; letters of all windows end to end, and counts.

    `padded` are the first few windows again, with digital silence up to 30 s.
    """

    frames: Tensor
    padded: Tensor
    tokens: Tensor
    labels: Tensor
    letters: Tensor
    counts: Tensor


@dataclass(frozen=True)
class Plan:
    """Training options: a wall-clock budget, a learning rate, a seed, minutes between checkpoints."""

    minutes: float
    peak: float
    seed: int
    every: float


@dataclass
class Progress:
    """Training progress, saved with the weights."""

    seconds: float = 0.0
    steps: int = 0
    windows: int = 0
    epoch: int = 0


class Learner:
    """The network in bf16 and its master weights in fp32: half of autocast's memory traffic."""

    def __init__(self, shape: Shape, words: Vocabulary, peak: float, path: Path) -> None:
        self.path = path
        self.trainee = Trainee(shape, words)
        state = torch.load(path, weights_only=True) if path.exists() else None
        if state:
            self.trainee.load_state_dict(state["weights"], strict=False)
        self.names = [name for name, _ in self.trainee.named_parameters()]
        self.exact = [own.detach().clone() for own in self.trainee.parameters()]
        self.trainee.to(torch.bfloat16)
        self.optimisers = self._optimisers(peak)
        for optimiser, saved in zip(self.optimisers, state["optimisers"] if state else (), strict=False):
            optimiser.load_state_dict(saved)
        self.progress = Progress(**state["progress"]) if state else Progress()

    def _optimisers(self, peak: float) -> list[torch.optim.Optimizer]:
        """Muon for the matrices inside the layers, at AdamW's step size; AdamW for all else."""
        inner = [".layers." in name and own.ndim == 2 for name, own in zip(self.names, self.exact, strict=True)]
        matrices = [own for own, is_inner in zip(self.exact, inner, strict=True) if is_inner]
        others = [own for own, is_inner in zip(self.exact, inner, strict=True) if not is_inner]
        return [
            torch.optim.Muon(matrices, lr=peak, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=peak, betas=(0.9, 0.98), weight_decay=0.01, fused=True),
        ]

    def update(self, loss: Tensor, rate: float) -> None:
        """One step of the optimiser down the loss."""
        loss.backward()
        for own, exact in zip(self.trainee.parameters(), self.exact, strict=True):
            exact.grad = None if own.grad is None else own.grad.float()
            own.grad = None
        _average([exact.grad for exact in self.exact if exact.grad is not None])
        torch.nn.utils.clip_grad_norm_(self.exact, 1.0)
        for optimiser, factor in zip(self.optimisers, (MATRIX_RATE, 1.0), strict=True):
            for group in optimiser.param_groups:
                group["lr"] = factor * rate
            optimiser.step()
        with torch.no_grad():
            torch._foreach_copy_(list(self.trainee.parameters()), self.exact)

    def save(self) -> None:
        """Save weights, optimiser and progress atomically."""
        part = self.path.with_suffix(".part")
        weights = dict(zip(self.names, self.exact, strict=True))
        optimisers = [optimiser.state_dict() for optimiser in self.optimisers]
        torch.save({"weights": weights, "optimisers": optimisers, "progress": asdict(self.progress)}, part)
        part.replace(self.path)


def _average(values: list[Tensor]) -> None:
    """The mean over all processes, in place."""
    if not dist.is_initialized():
        return
    joined = torch.cat([value.flatten() for value in values])
    dist.all_reduce(joined)
    joined /= dist.get_world_size()
    for value, own in zip(values, joined.split([value.numel() for value in values]), strict=True):
        value.copy_(own.view_as(value))


class Corpus:
    """The shards of a folder, opened as memory maps as they appear."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.maps: dict[Path, npt.NDArray[np.float16]] = {}
        self.examples: dict[Path, list[Example]] = {}

    def refresh(self) -> list[Example]:
        """All examples of all shards but the first, which is for development."""
        for path in sorted(self.folder.glob("[0-9]*.npy")):
            if path not in self.maps:
                self.maps[path] = np.load(path, mmap_mode="r")
                lines = path.with_suffix(".jsonl").read_text().splitlines()
                self.examples[path] = [self._example(path, line) for line in lines]
        return [example for path in sorted(self.examples)[1:] for example in self.examples[path]]

    def dev(self, count: int) -> list[Example]:
        """The first windows of the shard kept for development: single sentences."""
        self.refresh()
        return self.examples[min(self.examples)][:count]

    def frames(self, example: Example) -> npt.NDArray[np.float32]:
        block = self.maps[example.shard][example.first : example.first + example.frames]
        return np.asarray(block, dtype=np.float32)

    @staticmethod
    def _example(path: Path, line: str) -> Example:
        label = json.loads(line)
        segments = tuple((start, stop, text) for start, stop, text in label["segments"])
        return Example(path, label["first"], label["frames"], segments, label["spoken"])


def batches(corpus: Corpus, words: Vocabulary, seed: str, done: float) -> Iterator[Batch]:
    """One pass over the corpus in batches of like length; some with a window padded to 30 s, more near the end."""
    rng = random.Random(seed)
    full_share, long_share = STAGES[max(start for start in STAGES if start <= done)]
    examples = [example for example in corpus.refresh() if example.frames <= SHORT_FRAMES or rng.random() < long_share]
    rng.shuffle(examples)
    for group in _like_lengths(examples, rng):
        rng.shuffle(group)
        longest = max(example.frames for example in group)
        length = min(FULL_FRAMES, _round(longest + rng.choice((0, 0, 20, 50, 100, 200))))
        yield collate(corpus, words, group, length, rng, padded=int(rng.random() < full_share))


def _like_lengths(examples: list[Example], rng: random.Random, pool: int = 2_000) -> Iterator[list[Example]]:
    """Groups of windows with much the same length, in random order."""
    groups: list[list[Example]] = []
    for at in range(0, len(examples), pool):
        ordered = sorted(examples[at : at + pool], key=lambda example: example.frames)
        group: list[Example] = []
        for example in ordered:
            if group and (len(group) == BATCH_WINDOWS or (len(group) + 1) * (example.frames + 40) > BATCH_FRAMES):
                groups.append(group)
                group = []
            group.append(example)
        groups.append(group)
    rng.shuffle(groups)
    yield from groups


def _round(frames: int) -> int:
    """Few different shapes: oneDNN compiles code for each new one, which costs more than the padding."""
    quantum = 50 if frames < 500 else 100
    return -(-frames // quantum) * quantum


def collate(
    corpus: Corpus, words: Vocabulary, group: list[Example], length: int, rng: random.Random, *, padded: int
) -> Batch:
    """Windows as one batch: as long as each other, masked, with their decoder sequences and letters."""
    length += length % 2
    frames = np.stack([_masked(mel.pad(corpus.frames(example), length), example.frames, rng) for example in group])
    full = np.stack([mel.pad(window, FULL_FRAMES) for window in frames[:padded]]) if padded else frames[:0]
    rows = [sequence(words, example, rng) for example in group]
    longest = -(-max(len(tokens) for tokens, _ in rows) // 8) * 8
    end = words.id("endoftext")
    tokens = torch.tensor([row + [end] * (longest - len(row)) for row, _ in rows])
    labels = torch.tensor([row + [IGNORE] * (longest - len(row)) for _, row in rows])
    spoken = [[LETTERS.index(letter) for letter in example.spoken] for example in group]
    counts = torch.tensor([len(row) for row in spoken])
    spelt = torch.tensor([letter for row in spoken for letter in row])
    return Batch(torch.from_numpy(frames), torch.from_numpy(full), tokens, labels, spelt, counts)


def sequence(words: Vocabulary, example: Example, rng: random.Random) -> tuple[list[int], list[int]]:
    """The decoder's input and the label after each token; none in an earlier text or where the caller decides."""
    timestamps = rng.random() < 0.5
    target = words.target(example.segments, timestamps)
    prompt = [words.id(name) for name in ("startoftranscript", "en", "transcribe")] + (
        [] if timestamps else [words.id("notimestamps")]
    )
    before = _before(words, rng)
    # The no-speech probability is read at startoftranscript: there a silent window wants nospeech, speech its
    # language.
    heard = words.id("en") if example.segments else words.id("nospeech")
    tokens = [*before, *prompt, *target[:-1]]
    labels = [IGNORE] * len(before) + [heard] + [IGNORE] * (len(prompt) - 2) + target
    return tokens, labels


_PROMPTS = (
    "Banking call.",
    "The customer calls the bank about a card.",
    "Brokerage, shares, transfers.",
    "Thank you for calling.",
    "Savings",
)


def _before(words: Vocabulary, rng: random.Random) -> list[int]:
    """Sometimes an earlier text, so that a prompt does not change the transcript."""
    if rng.random() > 0.05:
        return []
    return [words.id("startofprev"), *words.text(rng.choice(_PROMPTS))]


def _masked(frames: npt.NDArray[np.float32], speech: int, rng: random.Random) -> npt.NDArray[np.float32]:
    """SpecAugment, mild: a band of channels and short stretches of time become the window's mean."""
    mean = float(frames[:speech].mean())
    if rng.random() < 0.5:
        width = rng.randint(1, 12)
        first = rng.randint(0, mel.N_MELS - width)
        frames[:, first : first + width] = mean
    for _ in range(rng.randint(0, 1 + speech // 400)):
        width = rng.randint(1, 12)
        first = rng.randint(0, max(0, speech - width))
        frames[first : first + width] = mean
    return frames


def losses(trainee: Trainee, batch: Batch, decoder: bool) -> tuple[Tensor, Tensor]:
    """CTC's loss per letter, and the decoder's per token with its disagreement between trimmed and padded windows."""
    states = trainee.encode(batch.frames.to(torch.bfloat16))
    logits = trainee.decode(batch.tokens, states) if decoder else None
    heard = trainee.letters(states).float().log_softmax(-1).transpose(0, 1)
    lengths = torch.full((len(batch.frames),), states.shape[1])
    ctc = F.ctc_loss(
        heard, batch.letters, lengths, batch.counts, reduction="sum", zero_infinity=True
    ) / batch.counts.sum().clamp(min=1)
    if logits is None:
        return ctc, torch.zeros(())
    kept = batch.labels != IGNORE
    text = F.cross_entropy(logits[kept].float(), batch.labels[kept], label_smoothing=0.05)
    return ctc, text + AGREEMENT * disagreement(trainee, batch, logits) if len(batch.padded) else text


def disagreement(trainee: Trainee, batch: Batch, logits: Tensor) -> Tensor:
    """Kullback-Leibler divergence, both ways, between the words of trimmed windows and of the same padded to 30 s."""
    count = len(batch.padded)
    padded = trainee.decode(batch.tokens[:count], trainee.encode(batch.padded.to(torch.bfloat16)))
    kept = batch.labels[:count] != IGNORE
    one, other = (part[kept].float().log_softmax(-1) for part in (logits[:count], padded))
    return ((one.exp() - other.exp()) * (one - other)).sum(-1).mean()


def rate(done: float, peak: float) -> float:
    """The learning rate at a share `done` of the budget: warm-up, a plateau, then straight down to a fiftieth."""
    if done < WARM_UP:
        return peak * done / WARM_UP
    return peak * max(0.02, min(1.0, (1 - done) / (1 - PLATEAU)))


def run(rank: int, processes: int, work: Path, plan: Plan) -> None:
    """One of several processes that learn the same network from windows of their own.

    Two processes of one thread each need to agree once a step; two threads would have to at every product, which on
    cores that other work wants too was measured to be slower than a single thread.
    """
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{work}/rendezvous", rank=rank, world_size=processes)
    train(work, plan, rank)
    dist.destroy_process_group()


def train(work: Path, plan: Plan, rank: int = 0) -> None:
    """Train until the budget is used, resuming from the last checkpoint in `work`."""
    torch.manual_seed(plan.seed)
    words = tokenizer.load(work / "tokenizer")
    corpus = Corpus(work / "corpus")
    learner = Learner(Shape(), words, plan.peak, work / "train.pt")
    progress, budget = learner.progress, plan.minutes * 60
    log = (work / "train.jsonl").open("a", buffering=1)
    clock = Clock(progress.seconds)
    saved = progress.seconds
    sums: list[tuple[float, float]] = []
    while progress.seconds < budget:
        entered = progress.seconds / budget
        drawn = f"{plan.seed}:{progress.epoch}:{progress.steps}:{rank}"
        for batch in ahead(batches(corpus, words, drawn, entered)):
            done = progress.seconds / budget
            if any(entered < stage <= done for stage in (LETTERS_ALONE, *STAGES)):
                break  # the next stage draws its windows anew
            sums.append(step(learner, batch, done, plan.peak))
            progress.steps += 1
            progress.windows += len(batch.frames) * _processes()
            progress.seconds = clock.read()
            if progress.seconds - saved > plan.every * 60 or progress.seconds >= budget:
                saved = progress.seconds
                if rank == 0:
                    learner.save()
                    report(log, corpus, words, learner, done=done, sums=sums)
                sums = []
            if progress.seconds >= budget:
                break
        progress.epoch += 1


class Clock:
    """Seconds trained, the same in all processes, so that they change stage and stop together."""

    def __init__(self, before: float) -> None:
        self.began = time.monotonic() - before

    def read(self) -> float:
        """The mean over the processes' clocks."""
        seconds = torch.tensor([time.monotonic() - self.began], dtype=torch.float64)
        _average([seconds])
        return float(seconds)


def _processes() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def step(learner: Learner, batch: Batch, done: float, peak: float) -> tuple[float, float]:
    """One update: CTC alone at first, then with the decoder and a decreasing weight of CTC."""
    decoder = done >= LETTERS_ALONE
    ctc, text = losses(learner.trainee, batch, decoder)
    share = 0.5 - 0.35 * max(0.0, done - LETTERS_ALONE) / (1 - LETTERS_ALONE)
    learner.update(share * ctc + text if decoder else ctc, rate(done, peak))
    return ctc.item(), text.item()


def ahead(source: Iterator[Batch], depth: int = 4) -> Iterator[Batch]:
    """The batches of `source`, prepared in a thread during training; its exceptions are raised here."""
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: Batch | BaseException | None) -> None:
        while not stopped.is_set():
            with suppress(queue.Full):
                ready.put(item, timeout=1)
                return

    def fill() -> None:
        try:
            for batch in source:
                put(batch)
                if stopped.is_set():
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001 - raised again in the consumer
            put(error)

    threading.Thread(target=fill, daemon=True).start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()


def report(
    log: TextIO, corpus: Corpus, words: Vocabulary, learner: Learner, *, done: float, sums: list[tuple[float, float]]
) -> None:
    """A JSON line: losses since the last one, word errors of encoder and decoder on the development windows."""
    trainee, progress = learner.trainee, learner.progress
    examples = sorted(corpus.dev(DEV_WINDOWS), key=lambda example: example.frames)
    heard, written = [], []
    for at in range(0, len(examples), 30):
        group = examples[at : at + 30]
        length = max(example.frames for example in group) + 20
        frames = torch.from_numpy(np.stack([mel.pad(corpus.frames(example), length + length % 2) for example in group]))
        heard += letters(trainee, frames)
        if done >= LETTERS_ALONE:
            written += [words.decode(row) for row in greedy(trainee, words, frames, 60)]
    references = [" ".join(text for _, _, text in example.segments) for example in examples]
    line: dict[str, Any] = {**asdict(progress), "done": round(done, 4)}
    line["ctc"], line["text"] = (round(float(np.mean(column)), 4) for column in zip(*sums, strict=True))
    line["letters_wer"] = round(float(jiwer.wer([example.spoken for example in examples], heard)), 4)
    if written:
        line["wer"] = round(float(jiwer.wer(references, written)), 4)
        line["sample"] = [references[40], written[40]]
    log.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)


def main() -> None:
    """Train the synthetic-voice model's network; resume from the last checkpoint in the work folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for intermediate files")
    parser.add_argument("--minutes", type=float, default=100.0, help="wall-clock budget over all runs")
    parser.add_argument("--every", type=float, default=5.0, help="minutes between checkpoints")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="processes of one thread each")
    parser.add_argument("--peak", type=float, default=0.9e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    plan = Plan(args.minutes, args.peak, args.seed, args.every)
    if args.processes == 1:
        train(args.work, plan)
        return
    (args.work / "rendezvous").unlink(missing_ok=True)
    mp.spawn(run, (args.processes, args.work.resolve(), plan), args.processes)


if __name__ == "__main__":
    main()

"""The fake engine that applications test against."""

from __future__ import annotations

from tests.support import fakes
from tickertape.errors import OverloadedError
from tickertape.testing import TEXT, FakeEngine, engine, fake_transcriber
from tickertape.types import Options


def test_an_application_can_be_tested_without_a_model() -> None:
    """Every recording has the text that the test chooses, and the engine records its options."""
    fake = FakeEngine(text="Hello. Please block my card.")
    with fake_transcriber(fake) as transcriber:
        transcript = transcriber.transcribe(fakes.wav(2.0), language="de", word_timestamps=True)
    assert transcript.text == "Hello. Please block my card."
    assert [(each.text, each.start, each.end) for each in transcript.segments] == [
        (" Hello.", 0.0, 1.0), (" Please block my card.", 1.0, 2.0)]  # fmt: skip
    assert [word.text for word in transcript.words] == [" Hello.", " Please", " block", " my", " card."]
    assert fake.asked == [Options(language="de", word_timestamps=True)]


def test_silence_and_errors_can_be_simulated() -> None:
    """An empty text is silence; an error is raised for every window until it is removed."""
    fake = FakeEngine(text="")
    with fake_transcriber(fake) as transcriber:
        assert transcriber.transcribe(fakes.wav(1.0)).segments == ()
        fake.failure, caught = OverloadedError("Try again."), None
        try:
            transcriber.transcribe(fakes.wav(1.0))
        except OverloadedError as error:
            caught = error
    assert caught is fake.failure


def test_the_server_can_use_it() -> None:
    """`--engine tickertape.testing:engine` names a factory of the fake engine."""
    assert engine("", None).text == TEXT

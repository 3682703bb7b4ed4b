"""Many callers and one model, and the two language models that replay."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from anyloom.anygpt_model.engine import load_engine
from anyloom.anygpt_model.errors import AnyloomError, Busy, ContextFull, InputError, ReplayError
from anyloom.anygpt_model.generation import Decider
from anyloom.anygpt_model.language_model import LanguageModel, Recorded
from anyloom.anygpt_model.scheduler import Scheduler
from anyloom.anygpt_model.values import Bounds, Generation, Modality, Request
from anyloom.anygpt_model.verification import Verifying


def ask(seed: int, tokens: int = 40, to: Modality | None = None) -> Request:
    return Request((1, 30 + seed % 300, 77, 200), seed, Bounds(to, max_tokens=tokens))


@pytest.fixture
def traces(llm_engine: Any) -> list[tuple[Request, Generation]]:
    asked = [ask(seed, to=[None, *Modality][seed % 5]) for seed in range(5)]
    return list(zip(asked, llm_engine.generate(asked), strict=True))


def test_ids_reach_the_caller_as_they_are_made_in_its_own_thread(llm_engine: Any) -> None:
    seen: list[tuple[int, int]] = []
    homes = set()

    def on_token(number: int, token: int) -> None:
        seen.append((number, token))
        homes.add(threading.get_ident())

    made = llm_engine.generate([ask(1), ask(2)], on_token=on_token)
    assert homes == {threading.get_ident()}
    for number in (0, 1):
        assert tuple(token for at, token in seen if at == number) == made[number].ids


def test_a_failing_callback_ends_its_own_call_only(llm_engine: Any) -> None:
    wanted = llm_engine.generate([ask(5, 120)])
    found: list[Any] = []
    other = threading.Thread(target=lambda: found.extend(llm_engine.generate([ask(5, 120)])))

    def fail(number: int, token: int) -> None:
        raise ZeroDivisionError("mine")

    other.start()
    with pytest.raises(ZeroDivisionError, match="mine"):
        llm_engine.generate([ask(6, 120)], on_token=fail)
    other.join()
    assert found[0].ids == wanted[0].ids
    assert idle(llm_engine)


def test_a_request_that_cannot_be_drawn_fails_alone(llm_engine: Any) -> None:
    wanted = llm_engine.generate([ask(5, 400, Modality.TEXT)])
    found: list[Any] = []
    other = threading.Thread(target=lambda: found.extend(llm_engine.generate([ask(5, 400, Modality.TEXT)])))
    other.start()
    for _ in range(3):
        with pytest.raises(TypeError):
            llm_engine.generate([replace(ask(6, 400, Modality.TEXT), seed="six")])
    other.join()
    assert found == wanted


def idle(engine: Any) -> bool:
    """Wait until nothing runs; False if that takes long."""
    until = time.monotonic() + 20
    while engine.language_model.load != (0, 0) and time.monotonic() < until:
        time.sleep(0.01)
    return bool(engine.language_model.load == (0, 0))


def test_cancelling_gives_back_what_was_made(llm_engine: Any) -> None:
    seen: list[int] = []
    request = Request((1, 30), 3, Bounds(Modality.TEXT, max_tokens=400))
    whole = llm_engine.generate([request])[0]
    cut = llm_engine.generate([request], on_token=lambda _, token: seen.append(token), cancelled=lambda: len(seen) >= 5)
    if len(whole.ids) > 60:
        assert cut[0].finish == "cancelled"
    assert cut[0].ids == whole.ids[: len(cut[0].ids)]
    assert len(cut[0].ids) >= 5
    assert idle(llm_engine)


@pytest.mark.slow
def test_a_thousand_cancelled_and_failed_calls_leave_nothing_behind(llm_folder: Any) -> None:
    psutil = pytest.importorskip("psutil")
    with load_engine(llm_folder, device="cpu", prefix_bytes=1 << 20) as engine:
        process = psutil.Process()
        sizes = []
        for number in range(1000):
            seen: list[int] = []
            if number % 4 == 0:
                with pytest.raises(InputError):
                    engine.generate([Request((99_999,), 1)])
            elif number % 4 == 1:
                with pytest.raises(ZeroDivisionError):
                    engine.generate([ask(number, 60)], on_token=lambda _, token: 1 // 0)
            elif number % 4 == 2:
                text = Request((1, 30), number, Bounds(Modality.TEXT, max_tokens=600))
                engine.generate([text], lambda _, token: seen.append(token), lambda: len(seen) >= 2)  # noqa: B023
            else:
                engine.generate([ask(number, 60)], cancelled=lambda: True)
            if number % 100 == 99:
                sizes.append(process.memory_info().rss)
        assert idle(engine)
        assert engine.language_model._scheduler._batch.prefixes.nbytes <= 1 << 20
        assert sizes[-1] - sizes[2] < 20 << 20


def test_turns_and_forks_that_continue_a_kept_cache_change_no_bit(llm_folder: Any) -> None:
    with load_engine(llm_folder, device="cpu") as kept, load_engine(llm_folder, device="cpu", prefix_bytes=0) as fresh:
        if kept.language_model.llama.compiled is None:
            pytest.skip("without the compiled pass a prompt's bits are those of its length")
        first = ask(1, 60)
        start = (*first.prompt, *kept.generate([first])[0].ids)
        for tail in ((30, 31, 32), (40, 41), tuple(range(50, 120)), (30, 31, 33), (40, 41)):
            asked = [Request((*start, *tail), 7, Bounds(max_tokens=30)), Request((*start[:20], *tail), 8)]
            assert kept.generate(asked) == fresh.generate(asked)
        assert kept.language_model._scheduler._batch.prefixes.nbytes > 0


def test_the_queue_is_bounded(llm_folder: Any) -> None:
    with load_engine(llm_folder, device="cpu", slots=1, queue=4) as engine:
        with pytest.raises(Busy, match=r"5 request\(s\) came while 0 wait and 4 may"):
            engine.generate([ask(n) for n in range(5)])
        assert len(engine.generate([ask(n) for n in range(4)])) == 4


def test_whoever_leaves_the_queue_does_not_wait_for_a_row(llm_engine: Any) -> None:
    class Full:
        full = True
        remove = staticmethod(lambda finished: None)

    scheduler = Scheduler(lambda: Full(), 4)  # type: ignore[arg-type,return-value]
    live = llm_engine.language_model
    deciders = [Decider(ask(n), live.grammar, live.context_length) for n in range(2)]
    made = scheduler.generate(deciders, None, lambda: True)
    assert [(each.finish, each.ids) for each in made] == [("cancelled", ())] * 2
    assert scheduler.load == (0, 0)
    scheduler.close()


def test_more_requests_than_rows_are_all_served_alike(llm_folder: Any) -> None:
    asked = [ask(n, 20 + n) for n in range(7)]
    with load_engine(llm_folder, device="cpu", slots=2, prefix_bytes=0) as few:
        made = few.generate(asked)
    with load_engine(llm_folder, device="cpu", slots=16, prefix_bytes=0) as many:
        assert many.generate(asked) == made


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (Request((), 1), InputError),
        (Request((1, 9999), 1), InputError),
        (Request((5,) * 2000, 1), ContextFull),
        (Request((5,), 1, Bounds(Modality.IMAGE, max_tokens=10)), ContextFull),
    ],
)
def test_a_request_that_cannot_be_served_is_refused_before_anything_runs(
    llm_engine: Any, request_: Request, error: type[Exception]
) -> None:
    with pytest.raises(error):
        llm_engine.generate([ask(1), request_])
    assert llm_engine.language_model.load == (0, 0)


def test_a_closed_engine_says_so(llm_folder: Any) -> None:
    engine = load_engine(llm_folder, device="cpu")
    engine.generate([ask(1)])
    engine.close()
    with pytest.raises(AnyloomError, match="closed"):
        engine.generate([ask(1)])


def test_closing_ends_calls_under_way(llm_folder: Any) -> None:
    engine = load_engine(llm_folder, device="cpu")
    begun = threading.Event()
    found: list[Any] = []

    def call() -> None:
        request = Request((1, 30), 3, Bounds(Modality.TEXT, max_tokens=900))
        found.extend(engine.generate([request], on_token=lambda *_: begun.set()))

    thread = threading.Thread(target=call)
    thread.start()
    assert begun.wait(30)
    engine.close()
    thread.join(30)
    assert not thread.is_alive()
    assert found[0].finish in ("cancelled", "end", "length")


LEAVES = """
import sys, threading
from anyloom.anygpt_model.engine import load_engine
from anyloom.anygpt_model.values import Bounds, Modality, Request
engine = load_engine(sys.argv[1], device="cpu")
begun = threading.Event()
asked = [Request((1, 30), seed, Bounds(Modality.TEXT, max_tokens=1500)) for seed in range(64)]
threading.Thread(target=engine.generate, args=(asked, lambda *_: begun.set()), daemon=True).start()
begun.wait()
print("left")
"""


@pytest.mark.slow
def test_a_process_may_end_in_the_middle_of_a_pass(llm_folder: Any) -> None:
    done = subprocess.run([sys.executable, "-c", LEAVES, str(llm_folder)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "left\n"), done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_generates_alike(llm_engine: Any) -> None:
    wanted = llm_engine.generate([ask(4)])[0].ids
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, b"same" if llm_engine.generate([ask(4)])[0].ids == wanted else b"other")
        finally:
            os._exit(0)
    os.close(writing)
    said = os.read(reading, 10)
    os.waitpid(child, 0)
    assert said == b"same"


async def test_asynchronous_callers_share_the_batch_and_can_be_cancelled(llm_engine: Any) -> None:
    wanted = llm_engine.generate([ask(5), ask(6)])
    made = await asyncio.gather(llm_engine.agenerate([ask(5)]), llm_engine.agenerate([ask(6)]))
    assert [one.ids for [one] in made] == [one.ids for one in wanted]
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()
    endless = Request((1, 30), 3, Bounds(Modality.TEXT, max_tokens=900))
    task = asyncio.ensure_future(
        llm_engine.agenerate([endless], on_token=lambda *_: loop.call_soon_threadsafe(begun.set))
    )
    await asyncio.wait_for(begun.wait(), 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(idle, llm_engine)


def test_recorded_plays_back(traces: list[tuple[Request, Generation]]) -> None:
    model: LanguageModel = Recorded(traces)
    seen: list[tuple[int, int]] = []
    played = model.generate([request for request, _ in traces], on_token=lambda *pair: seen.append(pair))
    assert played == [generation for _, generation in traces]
    assert [token for number, token in seen if number == 1] == list(traces[1][1].ids)
    with pytest.raises(ReplayError, match="than the trace holds"):
        model.generate([traces[0][0]])


def test_a_changed_prompt_is_named_with_its_position(traces: list[tuple[Request, Generation]]) -> None:
    request = traces[0][0]
    changed = replace(request, prompt=(*request.prompt[:2], 99, *request.prompt[3:]))
    with pytest.raises(ReplayError, match="position 2: id 99 came, 77 is stored"):
        Recorded(traces).generate([changed])
    with pytest.raises(ReplayError, match="3 ids where 4 are stored"):
        Recorded(traces).generate([replace(request, prompt=request.prompt[:3])])


def test_verifying_finds_every_decision_as_it_was(llm_engine: Any, traces: list[tuple[Request, Generation]]) -> None:
    verifying: Verifying = llm_engine.verifying(traces)
    assert verifying.generate([request for request, _ in traces]) == [generation for _, generation in traces]
    for report, (_, generation) in zip(verifying.reports, traces, strict=True):
        assert report.identical
        assert report.drift < 1e-4
        assert len(report.margins) == len(report.removed) == len(generation.ids)
        assert all(0 <= mass < 1 for mass in report.removed)


def test_verifying_finds_the_first_id_that_would_not_be_drawn(
    llm_engine: Any, traces: list[tuple[Request, Generation]]
) -> None:
    request, generation = next(pair for pair in traces if pair[0].bounds.to == Modality.TEXT)
    other = next(token for token in llm_engine.vocabulary.text_ids if token != generation.ids[3])
    forged = replace(generation, ids=(*generation.ids[:3], other, *generation.ids[4:]))
    verifying = llm_engine.verifying([(request, forged)])
    verifying.generate([request])
    report = verifying.reports[0]
    assert (report.divergence, report.expected, report.drawn) == (3, other, generation.ids[3])
    assert not report.identical
    assert not report.near_tie


def test_verifying_names_an_illegal_id(llm_engine: Any, traces: list[tuple[Request, Generation]]) -> None:
    request, generation = traces[0]
    forged = replace(generation, ids=(*generation.ids[:2], 0, *generation.ids[3:]))
    verifying = llm_engine.verifying([(request, forged)])
    verifying.generate([request])
    assert verifying.reports[0].illegal == 2


def test_another_seed_is_noticed(llm_engine: Any, traces: list[tuple[Request, Generation]]) -> None:
    verifying = llm_engine.verifying(traces)
    verifying.generate([replace(request, seed=request.seed + 1000) for request, _ in traces])
    assert all(not report.identical for report in verifying.reports)

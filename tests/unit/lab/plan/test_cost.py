"""Each method's figures, against sums written out and against a discrete-event simulation of the whole run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from simulation import Line

from smartedge.artifacts.plan import Choice, Job
from smartedge.artifacts.profile import Profile, Timing
from smartedge.lab.plan.cost import predict
from smartedge.lab.plan.job import Setting, job_of
from smartedge.lab.plan.links import FRAME_OVERHEAD_BYTES
from smartedge.lab.plan.published import load_device, scale
from smartedge.lab.plan.search import choices

B = 64
FRAMING = FRAME_OVERHEAD_BYTES
HIERARCHICAL = Choice(method="hierarchical", schedule="joint", cut="early", codec="uint8")
MS = 1e-3
WIRE = 1514 / 1448


def simulated(epochs: int, link_s: Callable[[int], float], *, cloud_ms: float = 4.0, queue: int = 8) -> float:
    """Seconds of a joint run at cut ``early`` with uint8, written out: 10 + 1 frames an epoch, 2 test frames."""
    frame_bytes = B * (2048 + 1 + 4) + FRAMING
    link = max(link_s(frame_bytes), 1e-3 + 2e-9 * frame_bytes)
    learn = [B * 0.05 * MS, B * 3.0 * MS, B * (0.02 + 0.03) * MS, link, B * (cloud_ms + 0.01) * MS]
    look = [0.0, B * 1.0 * MS, B * (0.02 + 0.03) * MS, link, B * (4.0 / 3 + 0.01) * MS]
    work: list[list[float]] = []
    for _ in range(epochs):
        work += [list(learn) for _ in range(10)] + [list(look)]
        work[-1][1] += 0.01 + 2e-9 * 12e6
        work[-1][4] += 0.01 + 2e-9 * 30e6 * 4
    work += [list(look), list(look)]
    work[0][1] += 0.3
    work[0][4] += 0.2
    # The link and the cloud wait 0.5 s for the network to be made: as a frame of that length before all others.
    work = [[0.0, 0.0, 0.0, 0.5, 0.0], *work]
    return Line(work, [None, 3, queue, None, None]).run()[-1][-1]


@pytest.mark.parametrize(
    ("link", "cloud_ms"),
    [("local", 4.0), ("wifi,0ms", 4.0), ("3g,0ms", 4.0), ("5.85", 4.0), ("local", 0.5), ("2", 0.5), ("3", 4.0)],
)
@pytest.mark.parametrize("epochs", [1, 2, 6])
def test_a_joint_run_takes_what_the_simulation_says(
    link: str, cloud_ms: float, epochs: int, job: Job, profile: Profile, make_setting: Callable[..., Setting]
) -> None:
    cuts = tuple(
        cut.model_copy(update={"back_step": cut.back_step.model_copy(update={"seconds": cloud_ms * MS})})
        if cut.name == "early"
        else cut
        for cut in profile.cuts
    )
    setting = make_setting(link, cloud=profile.model_copy(update={"cuts": cuts}))
    up = setting.link.up_mbits
    reference = simulated(epochs, lambda n: n * WIRE * 8e-6 / up if up else 0.0, cloud_ms=cloud_ms)
    found = predict(HIERARCHICAL, job.model_copy(update={"epochs": epochs}), setting)
    # The simulation's extra frame in front takes a place in the queue: at most one frame's time.
    assert found.seconds_total == pytest.approx(reference, rel=0.005)
    assert found.seconds_per_epoch == pytest.approx(found.seconds_total / epochs, rel=1e-12)


def test_short_epochs_that_pile_up_while_the_cloud_builds_its_network(
    job: Job, profile: Profile, make_setting: Callable[..., Setting]
) -> None:
    slow_to_build = tuple(cut.model_copy(update={"build_seconds": 60.0}) for cut in profile.cuts)
    cloud = profile.model_copy(update={"cuts": slow_to_build, "cores": 64})
    choice = HIERARCHICAL.model_copy(update={"cut": "late"})  # the cloud is 2.5 times as fast as the edge
    found = predict(choice, job.model_copy(update={"epochs": 100}), make_setting("local", edge=cloud, cloud=cloud))
    assert found.bottleneck == "edge"
    assert found.seconds_per_epoch == pytest.approx(found.stage_seconds["edge"], rel=0.02)


def test_an_edge_alone_with_one_core_reads_and_learns_in_turn(
    job: Job, make_profile: Callable[..., Profile], make_setting: Callable[..., Setting]
) -> None:
    alone = Choice(method="local", schedule="joint", cut=None, codec=None)
    data = {"seconds": 6.0 * MS, "cpu_seconds": 6.0 * MS, "spread": 0.0, "first_seconds": 0.0}
    wide, narrow = (
        predict(alone, job, make_setting("3g", edge=make_profile(cores=cores, data=data))) for cores in (8, 1)
    )
    assert narrow.seconds_total - wide.seconds_total == pytest.approx(6 * 640 * 6.0 * MS, rel=1e-9)


def test_an_edge_alone_waits_for_its_images_where_reading_takes_longest(
    job: Job, make_profile: Callable[..., Profile], make_setting: Callable[..., Setting]
) -> None:
    alone = Choice(method="local", schedule="joint", cut=None, codec=None)
    data = {"seconds": 60.0 * MS, "cpu_seconds": 1.0 * MS, "spread": 0.0, "first_seconds": 0.0}
    found = predict(alone, job, make_setting("3g", edge=make_profile(data=data)))
    assert found.seconds_total == pytest.approx(6 * (640 * 60.0 * MS + 0.01 + 2e-9 * 130e6), rel=1e-9)


def test_an_epoch_approaches_its_slowest_stage(job: Job, make_setting: Callable[..., Setting]) -> None:
    found = predict(HIERARCHICAL, job.model_copy(update={"epochs": 50}), make_setting("3g"))
    assert found.bottleneck == "link"
    assert found.seconds_per_epoch == pytest.approx(found.stage_seconds["link"], rel=0.02)
    assert found.seconds_per_epoch < sum(found.stage_seconds.values())


def test_many_frames_are_taken_together_without_changing_the_answer(
    job: Job, make_setting: Callable[..., Setting]
) -> None:
    few = predict(HIERARCHICAL, job.model_copy(update={"epochs": 4}), make_setting("wifi"))
    counts = {name: 100 * count for name, count in job.images.items()}
    many = predict(HIERARCHICAL, job.model_copy(update={"epochs": 4, "images": counts}), make_setting("wifi"))
    assert many.stage_seconds["link"] == pytest.approx(100 * few.stage_seconds["link"], rel=1e-6)
    assert many.bytes_up_total == pytest.approx(100 * few.bytes_up_total, rel=1e-6)
    # The fill, the first batch and the checkpoints are paid once either way.
    assert 95 * few.seconds_total * 0.85 < many.seconds_total < 100 * few.seconds_total


def test_edge_alone_is_the_sum_of_its_steps(job: Job, make_setting: Callable[..., Setting]) -> None:
    found = predict(Choice(method="local", schedule="joint", cut=None, codec=None), job, make_setting("3g"))
    epoch = 640 * 7 * MS + 64 * 2.3 * MS + 0.01 + 2e-9 * 130e6
    assert found.seconds_total == pytest.approx(6 * epoch + 128 * 2.3 * MS + 0.4, rel=1e-9)
    assert (found.bytes_up_total, found.bytes_down_total, found.bytes_up_per_image, found.depth) == (0.0, 0.0, 0.0, 1.0)
    assert found.edge_peak_bytes == 800e6


def test_split_learning_waits_for_every_part_of_every_step(job: Job, make_setting: Callable[..., Setting]) -> None:
    found = predict(Choice(method="split", schedule="joint", cut="early", codec="float32"), job, make_setting("3g"))
    up = B * (4 * 4096 + 1 + 4) + FRAMING
    at_edge, coding = B * 2.5 * MS, B * (0.02 + 0.01 + 0.03) * MS
    at_cloud = B * (4.4 + 0.01 + 0.02) * MS
    down = B * (4 * 4096 + 4) + FRAMING  # no labels come back
    on_link = WIRE * 8e-6 * (up / 1.1 + down / 2.0275) + 2 * 0.05 + 2 * 1e-3 + 2e-9 * (up + down)
    step = at_edge + coding + on_link + at_cloud
    assert found.bytes_down_total == 60 * down
    assert found.seconds_total > 60 * step
    # Beside the steps: 6 validation frames and 2 of test, each about its way up the link, and what is paid once.
    rest = found.seconds_total - 60 * step
    assert rest == pytest.approx(8 * up * WIRE * 8e-6 / 1.1, rel=0.15)


def test_a_step_of_split_learning_crosses_the_link_twice_and_computes_a_gradient_for_the_edge(
    job: Job, profile: Profile, make_setting: Callable[..., Setting]
) -> None:
    choice = Choice(method="split", schedule="joint", cut="early", codec="float32")
    near, far = (predict(choice, job, make_setting(link)).seconds_total for link in ("3g,0ms", "3g,50ms"))
    assert far - near == pytest.approx(60 * 2 * 0.05, rel=1e-9)
    early = profile.cut("early")
    slower = early.back_step_gradient.model_copy(update={"seconds": early.back_step_gradient.seconds + MS})
    cuts = tuple(cut.model_copy(update={"back_step_gradient": slower}) for cut in profile.cuts)
    found = predict(choice, job, make_setting("3g,0ms", cloud=profile.model_copy(update={"cuts": cuts})))
    assert found.seconds_total - near == pytest.approx(60 * B * MS, rel=1e-9)


def test_freeze_and_log_sends_once_and_then_needs_no_link(job: Job, make_setting: Callable[..., Setting]) -> None:
    joint = predict(HIERARCHICAL, job, make_setting("3g"))
    once = predict(HIERARCHICAL.model_copy(update={"schedule": "freeze-and-log"}), job, make_setting("3g"))
    images = 640 + 64 + 128
    assert once.bytes_up_total == pytest.approx(images * (2048 + 1 + 4) + 13 * FRAMING, rel=1e-9)
    assert joint.bytes_up_total == pytest.approx((6 * 704 + 128) * 2053 + 68 * FRAMING, rel=1e-9)
    front = 6 * (640 * 3 + 64 * 1) * MS + 128 * 1 * MS + 0.3 + 6 * (0.01 + 2e-9 * 12e6)
    link = 13 * FRAMING + images * 2053
    cloud = 6 * (640 * 4.01 + 64 * (4 / 3 + 0.01)) * MS + 128 * (4 / 3 + 0.01) * MS + 0.2
    cloud += 6 * (0.01 + 2e-9 * 120e6)
    sending = link * WIRE * 8e-6 / 1.1
    fill = 0.5 + 0.05 + B * 1.05 * MS  # the cloud makes its network; latency; the first frame's way to the link
    assert once.seconds_total == pytest.approx(front + sending + cloud, abs=fill)
    assert once.seconds_total > front + sending + cloud


@pytest.mark.parametrize(("device", "cores", "beside"), [("cpu", 16, 0), ("cuda", 1, 0), ("cuda:1", 16, 1)])
def test_a_gpu_decodes_beside_its_steps_where_it_has_cores(
    job: Job,
    make_setting: Callable[..., Setting],
    make_profile: Callable[..., Profile],
    device: str,
    cores: int,
    beside: int,
) -> None:
    once, setting = HIERARCHICAL.model_copy(update={"schedule": "freeze-and-log"}), make_setting("3g")
    plain = predict(once, job, setting)
    found = predict(once, job, replace(setting, cloud=make_profile(device=device, cores=cores)))
    images = 6 * (640 + 64) + 128
    assert plain.seconds_total - found.seconds_total == pytest.approx(beside * 0.01 * images * MS, abs=1e-9)


def test_a_link_waits_until_the_cloud_has_built_its_network(
    job: Job, profile: Profile, make_setting: Callable[..., Setting]
) -> None:
    slow_to_build = tuple(cut.model_copy(update={"build_seconds": 60.0}) for cut in profile.cuts)
    soon, late = (
        predict(HIERARCHICAL, job, make_setting("3g", cloud=cloud)).seconds_total
        for cloud in (profile, profile.model_copy(update={"cuts": slow_to_build}))
    )
    assert late - soon == pytest.approx(59.5, rel=1e-9)  # the run is as long as its way over the link


def test_sides_that_share_a_machine_slow_each_other_down(job: Job, make_setting: Callable[..., Setting]) -> None:
    """Where they overlap. The profile's factor is 1.2, and the cloud has more to do."""
    apart, beside = (predict(HIERARCHICAL, job, make_setting("local", same_machine=same)) for same in (False, True))
    edge, cloud = (6 * apart.stage_seconds[side] for side in ("edge", "cloud"))
    assert edge == pytest.approx((6 * (640 * 3 + 64) + 128) * MS + 0.3, rel=1e-9)
    assert cloud == pytest.approx((6 * (640 * 4.01 + 64 * (4 / 3 + 0.01)) + 128 * (4 / 3 + 0.01)) * MS + 0.2, rel=1e-9)
    saving = 6 * (0.01 + 2e-9 * 12e6), 6 * (0.01 + 2e-9 * 120e6)
    longer = 0.2 * (edge + saving[0])  # as long as the edge computes
    slow = 1 + longer / (edge + saving[0]), 1 + longer / (cloud + saving[1])
    assert 6 * beside.stage_seconds["edge"] == pytest.approx(0.3 + slow[0] * (edge - 0.3), rel=1e-9)
    assert 6 * beside.stage_seconds["cloud"] == pytest.approx(0.2 + slow[1] * (cloud - 0.2), rel=1e-9)
    assert beside.seconds_total > apart.seconds_total


def test_two_stage_adds_the_front_and_then_only_looks(job: Job, make_setting: Callable[..., Setting]) -> None:
    job = job.model_copy(update={"front_epochs": 3})
    joint = predict(HIERARCHICAL, job, make_setting("3g"))
    staged = predict(HIERARCHICAL.model_copy(update={"schedule": "two-stage"}), job, make_setting("3g"))
    front = 3 * (640 * 3 + 64 * 1) * MS + 128 * 1 * MS + 0.3 + 3 * (0.01 + 2e-9 * 12e6)
    assert staged.bytes_up_total == joint.bytes_up_total
    # Both are bound by the link, of which the front's steps are no part.
    assert staged.seconds_total - joint.seconds_total == pytest.approx(front, abs=0.5)
    learning = 3 * (640 * 3 + 64 * 1) * MS + 128 * 1 * MS + 0.3
    assert 6 * staged.stage_seconds["edge"] == pytest.approx(learning + (6 * 704 + 128) * 1 * MS, rel=1e-9)


def test_distillation_comes_first(job: Job, make_setting: Callable[..., Setting]) -> None:
    taught = predict(HIERARCHICAL, job.model_copy(update={"distill_epochs": 2}), make_setting("wifi"))
    plain = predict(HIERARCHICAL, job, make_setting("wifi"))
    epoch = 640 * 7 * MS + 64 * 2.3 * MS + 0.01 + 2e-9 * 130e6
    assert taught.seconds_total - plain.seconds_total == pytest.approx(2 * epoch + 0.4, rel=1e-9)


def test_uploading_needs_no_front(job: Job, make_setting: Callable[..., Setting]) -> None:
    again = predict(Choice(method="upload", schedule="joint", cut=None, codec="jpeg"), job, make_setting("3g"))
    once = predict(Choice(method="upload", schedule="freeze-and-log", cut=None, codec="jpeg"), job, make_setting("3g"))
    assert again.stage_seconds["edge"] == 0.0
    assert again.bytes_up_per_image == pytest.approx(2500 + 5 + FRAMING / B, rel=1e-9)
    assert once.bytes_up_total < again.bytes_up_total / 4
    assert again.depth == 0.0


def test_one_machine_slows_both_sides_while_they_overlap(
    job: Job, make_profile: Callable[..., Profile], make_setting: Callable[..., Setting]
) -> None:
    both = make_profile(slowdown=1.5, cores=64, checkpoint={"seconds": 0.0, "seconds_per_byte": 0.0})
    apart = predict(HIERARCHICAL, job.model_copy(update={"epochs": 100}), make_setting("local", edge=both, cloud=both))
    shared = predict(
        HIERARCHICAL,
        job.model_copy(update={"epochs": 100}),
        make_setting("local", edge=both, cloud=both, same_machine=True),
    )
    # The cloud is busiest (M), the edge less so (m): of the time that both compute, each advances at 1/s of its speed,
    # so that an epoch takes M + m·(s - 1).
    longer, shorter = apart.stage_seconds["cloud"], apart.stage_seconds["edge"]
    grown = shared.seconds_per_epoch - apart.seconds_per_epoch
    assert longer > shorter
    assert grown == pytest.approx(0.5 * shorter, rel=0.05)
    alone = Choice(method="local", schedule="joint", cut=None, codec=None)
    assert predict(alone, job, make_setting("local", edge=both, same_machine=True)).seconds_total == pytest.approx(
        predict(alone, job, make_setting("local", edge=both)).seconds_total, rel=1e-12
    )


@given(
    speeds=st.tuples(*[st.floats(-1.3, 1.3)] * 3),
    faster=st.sampled_from([(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)]),
    by=st.floats(0.001, 0.5),
    slowdown=st.sampled_from([1.0, 1.3, 2.0, 2.5, 4.0]),
    cores=st.sampled_from([1, 64]),
    same_machine=st.booleans(),
    epochs=st.integers(1, 5),
    way=st.integers(0, 10**4),
)
@example(  # from 195 to 199 s, as long as the link had a say in how much of the two sides overlaps
    speeds=(-1.0, 0.0, 0.3), faster=(1, 0, 0), by=0.5, slowdown=2.5, cores=64, same_machine=True, epochs=5, way=4
)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_faster_is_never_predicted_slower(
    speeds: tuple[float, float, float],
    faster: tuple[int, int, int],
    by: float,
    slowdown: float,
    cores: int,
    same_machine: bool,
    epochs: int,
    way: int,
    job: Job,
    make_profile: Callable[..., Profile],
    make_setting: Callable[..., Setting],
) -> None:
    """Speeds of link, edge and cloud as powers of ten; ``faster``: which of them grow."""
    plain = make_profile(slowdown=slowdown, cores=cores)
    board = load_device("raspberry-pi-4")
    offered = choices(make_setting("local", edge=plain, cloud=plain))

    def seconds(exponents: list[float]) -> float:
        link, edge, cloud = (10.0**exponent for exponent in exponents)
        sides = {
            side: scale(plain, board.model_copy(update={"peak_gflops": board.peak_gflops * speed}))
            for side, speed in (("edge", edge), ("cloud", cloud))
        }
        setting = make_setting(f"{10 * link:.9f}", **sides, same_machine=same_machine)
        return predict(offered[way % len(offered)], job.model_copy(update={"epochs": epochs}), setting).seconds_total

    before = seconds(list(speeds))
    after = seconds([speed + by * grows for speed, grows in zip(speeds, faster, strict=True)])
    assert after <= before * (1 + 1e-9)


def test_one_machine_cannot_do_more_than_its_cores(
    job: Job, make_profile: Callable[..., Profile], make_setting: Callable[..., Setting]
) -> None:
    narrow = make_profile(cores=1, slowdown=1.0)
    found = predict(HIERARCHICAL, job, make_setting("local", edge=narrow, cloud=narrow, same_machine=True))
    busy = found.stage_seconds
    assert found.seconds_per_epoch >= 0.95 * (busy["edge"] + busy["cloud"])


def test_the_threads_of_an_edge_with_one_core_take_turns(
    job: Job, make_profile: Callable[..., Profile], make_setting: Callable[..., Setting]
) -> None:
    narrow, wide = make_profile(cores=1), make_profile(cores=8)
    choice, job = (
        HIERARCHICAL.model_copy(update={"cut": "late"}),
        job.model_copy(update={"epochs": 100}),
    )  # the edge has most to do
    alone = predict(choice, job, make_setting("local", edge=narrow, cloud=wide))
    beside = predict(choice, job, make_setting("local", edge=wide, cloud=wide))
    assert alone.stage_seconds == beside.stage_seconds
    # Reading, computing, encoding and the edge's half of the transport; the cloud has a machine of its own.
    transport, frames = narrow.transport, len(job.frames("train", learning=True))
    reading = job.images["train"] * narrow.data.cpu_seconds
    assert transport.cpu_seconds_per_frame > 0
    least = alone.stage_seconds["edge"] + alone.stage_seconds["encode"] + reading
    assert alone.seconds_per_epoch > least + frames * transport.cpu_seconds_per_frame / 2
    assert beside.seconds_per_epoch < alone.seconds_per_epoch


def test_memory_counts_the_queue_to_the_link(job: Job, make_setting: Callable[..., Setting]) -> None:
    found = predict(HIERARCHICAL, job, make_setting("3g"))
    assert found.edge_peak_bytes == 560e6 + 8 * B * 4 * 4096
    assert found.depth == pytest.approx(2 / 5, rel=1e-12)


def test_the_energy_is_that_of_busy_time_and_bytes(job: Job, make_setting: Callable[..., Setting]) -> None:
    found = predict(HIERARCHICAL, job, make_setting("3g"))
    busy = 6 * (found.stage_seconds["edge"] + found.stage_seconds["encode"])
    assert found.energy.compute == pytest.approx(5.0 * busy, rel=1e-9)
    sending = found.bytes_up_total * WIRE * 8e-6 / 1.1
    assert found.energy.radio == pytest.approx(sending * (868.98 * 1.1 + 817.88) / 1000, rel=1e-9)


def test_the_last_frame_of_a_pass_may_hold_fewer_images(job: Job, make_setting: Callable[..., Setting]) -> None:
    """100 images to validate with and 200 to test with are 64 + 36 and 3 · 64 + 8."""
    job = job.model_copy(update={"images": {"train": 640, "val": 100, "test": 200}})
    once = predict(HIERARCHICAL.model_copy(update={"schedule": "freeze-and-log"}), job, make_setting("3g"))
    sent = 640 + 100 + 200
    assert once.bytes_up_total == pytest.approx(sent * 2053 + (10 + 2 + 4) * FRAMING, rel=1e-9)
    assert once.bytes_up_per_image == pytest.approx(2053 + FRAMING / B, rel=1e-9)
    assert once.stage_seconds["encode"] == pytest.approx(sent * 0.05 * MS / 6, rel=1e-9)
    assert once.stage_seconds["link"] == pytest.approx(once.bytes_up_total * WIRE * 8e-6 / 1.1 / 6, rel=1e-9)
    front = 6 * (640 * 3 + 100 * 1) * MS + 200 * 1 * MS + 0.3
    assert once.stage_seconds["edge"] == pytest.approx((front + sent * 1 * MS) / 6, rel=1e-9)
    look = (4 / 3 + 0.01) * MS
    cloud = 6 * (640 * 4.01 * MS + 100 * look) + 200 * look + 0.2
    assert once.stage_seconds["cloud"] == pytest.approx(cloud / 6, rel=1e-9)


def test_images_wait_in_the_memory_of_an_edge_that_uploads(job: Job, make_setting: Callable[..., Setting]) -> None:
    found = predict(Choice(method="upload", schedule="joint", cut=None, codec="jpeg"), job, make_setting("3g"))
    assert found.edge_peak_bytes == 400e6 + (job.queue_frames + 1 + 3) * B * 3 * 64 * 64
    waits = predict(Choice(method="split", schedule="joint", cut="early", codec="float32"), job, make_setting("3g"))
    assert waits.edge_peak_bytes == 560e6, "an answer comes before the next batch"


def test_the_error_of_a_codec_is_that_of_the_edge(job: Job, make_setting: Callable[..., Setting]) -> None:
    assert predict(HIERARCHICAL, job, make_setting("3g")).rmse == 0.02
    assert predict(HIERARCHICAL.model_copy(update={"codec": "float32"}), job, make_setting("3g")).rmse == 0.0
    assert predict(Choice(method="local", schedule="joint", cut=None, codec=None), job, make_setting("3g")).rmse is None


def test_labels_take_their_bytes(config: Any) -> None:
    counts: Any = {"train": 640, "val": 64, "test": 128}
    assert job_of(config, counts, 2).label_bytes == 1
    assert job_of(config, counts, 257).label_bytes == 2
    assert job_of(config, counts, 2).front_epochs == config.epochs
    model = config.model.model_copy(update={"front": Path("front.safetensors")})
    assert job_of(config.model_copy(update={"model": model}), counts, 2).front_epochs == 0  # it is not trained again
    several = config.model_copy(update={"data": config.data.model_copy(update={"desired": ("a", "b")})})
    assert job_of(several, counts, 40).label_bytes == 5


def test_only_training_images_are_read(
    job: Job, make_profile: Callable[..., Profile], make_setting: Callable[..., Setting]
) -> None:
    """Validation and test images are in memory by then."""
    job = job.model_copy(update={"images": {"train": B, "val": 6 * B, "test": B}, "epochs": 1})
    slow, fast = (
        predict(HIERARCHICAL, job, make_setting("local", edge=make_profile(cores=64, data=data)))
        for data in (
            Timing(seconds=seconds, cpu_seconds=seconds, spread=0.0, first_seconds=0.0) for seconds in (50 * MS, 0.0)
        )
    )
    assert slow.seconds_total - fast.seconds_total == pytest.approx(B * 50 * MS, abs=0.01)  # not 8 times that

"""Runs training from Python: both sides as two processes, both in one process, or one side alone."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smartedge import errors
from smartedge.artifacts.results import Results
from smartedge.artifacts.run import RunFacts, Speed
from smartedge.artifacts.summary import has_finished
from smartedge.config import Config, load_config, load_run_config
from smartedge.framelog.log import check_disk
from smartedge.launch.datasets import open_data, with_given_data
from smartedge.launch.dividing import check_and_divide, divide_in_process
from smartedge.launch.links import check_receiver, one_way_receiver, receiver_for, sender_to
from smartedge.launch.processes import run_both
from smartedge.launch.run_folder import check_place, has_begun, in_folder, name_of, note_facts, prepare_run
from smartedge.methods.base import get_method
from smartedge.models.zoo.names import check_name
from smartedge.runs.allocator import keep_freed_memory, share_freed_memory
from smartedge.runs.progress import Bars, Monitor, Update, teller
from smartedge.runs.progress_file import ProgressFile
from smartedge.runs.telemetry import serving_telemetry
from smartedge.stopping import Stop, Stopped, stop_on_signals
from smartedge.wire.addresses import location_of

if TYPE_CHECKING:
    from smartedge.artifacts.fleet import Bundle
    from smartedge.cloud.receiving import Receiving
    from smartedge.cloud.runner import CloudRunner
    from smartedge.fronts.bundle import PublishedFront

__all__ = [
    "cloud_of",
    "collect",
    "release_images",
    "run_cloud",
    "run_edge",
    "train",
]


def train(
    config: str | Path | Mapping[str, Any] | Config,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    data: object = None,
    resume: bool = False,
    single_process: bool = False,
    monitor: Monitor | None = None,
) -> Results:
    """Run one training to its end and return its results (``results.json``, see ``docs/results-schema.md``).

    Edge and cloud run as two processes of this machine, joined by a socket.

    Args:
        config: a YAML file, a mapping, or a :class:`Config`.
        overrides: as for ``--set``.
        data: the data set itself, in place of ``data.path``: split (``train``, ``val``, ``test``) → a ``Dataset`` of
            torch or Hugging Face, a pair of arrays, or an iterable of pairs (image, label), as
            :func:`~smartedge.data.layouts.in_python.keep_given` describes them. It is read once and kept in
            ``run_dir/data``; a resumed run uses what is there. Labels without a name are called as ``data.desired``, or
            else ``label``.
        resume: continue the run that ``run_dir`` holds.
        single_process: the same steps without a socket, in this process; gives the same weights.
        monitor: takes progress updates; default: bars on standard error.

    Raises:
        SmartEdgeError: what went wrong on either side.
        Stopped: a ``KeyboardInterrupt``, after both sides have stopped cleanly.
    """
    settings = in_folder(load_config(config, overrides), name_of(config), resume=resume)
    check_place(settings.run_dir)
    if data is not None:
        settings = with_given_data(settings, data)
    run_dir = settings.run_dir
    with contextlib.nullcontext() if single_process else check_and_divide(settings) as division:
        settings, speed = _measured(settings)
        facts = prepare_run(settings, resume=resume, speed=speed)
        shown = monitor or Bars()
        if single_process:  # else each side's process keeps its progress
            shown = ProgressFile(shown, run_dir)
        with contextlib.closing(shown):
            if single_process:
                finished = _is_complete(settings) or _train_here(settings, shown, resume=resume)
            else:
                done = has_finished(run_dir / "edge")
                finished = run_both(settings, shown, resume=resume, edge_has_finished=done, division=division)
    if not finished:
        raise Stopped(f"stopped; continue with: smartedge train {run_dir / 'config.yaml'} --resume")
    from smartedge.runs.results import assemble

    return assemble(run_dir, settings, get_method(settings.method), facts)


def collect(run_dir: Path) -> Results:
    """Put together the results of a run whose sides were started one by one (``smartedge edge``, ``smartedge cloud``).

    Args:
        run_dir: holds both sides' folders, ``edge/`` and ``cloud/``.

    Raises:
        RunError: a side is missing or has not finished, or the sides belong to different runs.
    """
    from smartedge.runs.results import assemble

    config = load_run_config(run_dir)
    return assemble(run_dir, config, get_method(config.method), RunFacts.read(run_dir / "run.json"))


def run_edge(
    config: Config,
    location: str | None,
    monitor: Monitor,
    *,
    bundle: Bundle | None = None,
    resume: bool = False,
    metrics: tuple[str, int] | None = None,
    stop: Stop | None = None,
    parts: bytes | None = None,
) -> bool:
    """The edge's process: trains, and sends to the cloud. True when done.

    Args:
        config: the run's settings.
        location: where the cloud listens, ``host:port``, or ``udp://host:port`` for a link without a way back, or
            ``nats://host:port/stream`` for a broker; None: the address in ``bundle``, or the method has no cloud.
        monitor: takes progress updates.
        bundle: of an edge of the cloud's fleet.
        resume: continue the run that ``run_dir`` holds.
        metrics: where to answer ``/metrics`` and ``/healthz``, host and port; None: nowhere.
        stop: set it to stop cleanly.
        parts: of :func:`smartedge.launch.dividing.divide_in_process`, where that was called before.

    Raises:
        LinkError, FleetError: somebody answers there, and does not take this edge.
    """
    check_name(config.model.name)
    config = in_folder(config.without_auto(), "run", ["edge"], resume=resume)
    note_facts(config, edge=True)
    method, stop = get_method(config.method), stop or Stop()
    tell = teller(monitor, "edge", "link")
    sender = None
    if method.has_cloud:  # a full disk, a wrong address or certificate is told before torch is imported
        check_disk(config.run_dir / "edge")
        sender = sender_to(config, location, bundle, tell)
    parts = parts or divide_in_process(config, monitor)

    import torch

    from smartedge.edge.apart import open_parts
    from smartedge.edge.outage import run_again_after_outages
    from smartedge.edge.runner import EdgeRunner
    from smartedge.edge.telemetry import edge_telemetry
    from smartedge.runs.machine import pick_device

    torch.set_num_threads(config.threads)
    keep_freed_memory()
    share_freed_memory()  # with the threads that read and send
    pick_device(config.hardware.edge_device, "hardware.edge_device")  # an error comes before images are read
    dataset = open_data(config, monitor)
    _warn_of_early_releases(config, monitor)

    folder = config.run_dir / "edge"
    if not method.answered:
        opened = None if parts is None else open_parts(parts, teller(monitor, "edge", "network"))
        del parts
        runner = EdgeRunner(config, dataset, sender, folder, monitor, resume=resume, threaded=True, parts=opened)
        del opened
        telemetry = edge_telemetry(runner.sender, lambda: runner.state.counts.epochs)
        with serving_telemetry(metrics, telemetry, tell), stop.polled():
            return runner.run(stop)

    def begin(resume: bool) -> EdgeRunner:
        return EdgeRunner(config, dataset, sender, folder, monitor, resume=resume, threaded=True)

    with serving_telemetry(metrics, edge_telemetry(None), tell), stop.polled():
        return run_again_after_outages(begin, stop, tell, resume=resume)


def release_images(  # noqa: PLR0913 - one argument for each option of the command line
    published: PublishedFront,
    config: Config,
    source: Path,
    location: str | None,
    monitor: Monitor,
    *,
    bundle: Bundle | None = None,
    resume: bool = False,
    metrics: tuple[str, int] | None = None,
    stop: Stop | None = None,
) -> bool:
    """The process of an edge that does not train: it releases labelled images once, and needs no torch. True when done.

    Args:
        published: the front bundle, opened.
        config: from :func:`smartedge.fronts.bundle.settings_for_release`.
        source: see :class:`smartedge.edge.labelled.LabelledFolder`.
        location: as for :func:`run_edge`.
        monitor: takes progress updates.
        bundle: of an edge of the cloud's fleet.
        resume: continue the run that ``run_dir`` holds.
        metrics: where to answer ``/metrics`` and ``/healthz``, host and port; None: nowhere.
        stop: set it to stop cleanly.
    """
    from smartedge.edge.releasing import Releaser
    from smartedge.edge.telemetry import edge_telemetry
    from smartedge.fronts.runtime import OnnxFront

    note_facts(config, edge=True)
    check_disk(config.run_dir / "edge")
    tell = teller(monitor, "edge", "link")
    sender = sender_to(config, location, bundle, tell)
    front = OnnxFront(published, config.threads)
    releaser, stop = Releaser(front, config, source, sender, monitor, resume=resume), stop or Stop()
    with serving_telemetry(metrics, edge_telemetry(releaser.sender), tell), stop.polled():
        return releaser.release(stop)


def run_cloud(  # noqa: PLR0913 - one argument for each option of the command line
    config: Config,
    host: str,
    port: int,
    monitor: Monitor,
    *,
    fleet: Path | None = None,
    behind_proxy: bool = False,
    udp: tuple[str, int] | None = None,
    resume: bool = False,
    metrics: tuple[str, int] | None = None,
    stop: Stop | None = None,
) -> bool:
    """The cloud's process: listens, logs the frames, trains. True when done.

    ``monitor`` gets the port as :attr:`Update.port` once frames can be accepted. ``fleet`` and ``behind_proxy`` are
    those of :func:`receiver_for`; ``metrics`` is that of :func:`run_edge`. ``udp`` is where to listen for the fleet's
    edges without a way back, too.
    """
    if not get_method(config.method).has_cloud:
        raise errors.ConfigError(
            f"method: '{config.method}' sends nothing, so there is no cloud to start; use 'smartedge edge'"
        )
    config = in_folder(config.without_auto(), "run", ["cloud"], resume=resume)
    # What is wrong with the address, the fleet, the disk or the name is told before torch is imported.
    check_receiver(config, host, port, fleet=fleet, behind_proxy=behind_proxy)
    check_disk(config.run_dir / "cloud")
    check_name(config.model.name)

    import torch

    from smartedge.runs.machine import pick_device

    torch.set_num_threads(config.threads)
    keep_freed_memory()
    share_freed_memory()
    pick_device(config.hardware.cloud_device, "hardware.cloud_device")  # an error comes before the network is built
    note_facts(config, edge=False)
    runner = cloud_of(config, monitor, resume=resume)
    from smartedge.cloud.ingest.same_run import answer_about_settings
    from smartedge.cloud.telemetry import cloud_telemetry  # when the network is known to be right: it takes a while

    answer = answer_about_settings(config, runner.ingest.handover)
    receiver = receiver_for(config, runner.ingest, host, port, fleet=fleet, behind_proxy=behind_proxy, answer=answer)
    one_way = None if udp is None else one_way_receiver(runner.ingest, *udp, fleet=fleet)
    stop = stop or Stop()
    tell = teller(monitor, "cloud", "metrics")
    try:
        receiver.start()
        where = location_of(host, receiver.port)
        monitor.update(Update("cloud", "listen", text=f"listening on {where}", port=receiver.port))
        if udp is not None and one_way is not None:
            one_way.start()
            where = location_of(udp[0], one_way.port)
            monitor.update(Update("cloud", "listen", text=f"listening for datagrams on {where}"))
        with serving_telemetry(metrics, cloud_telemetry(runner, receiver), tell), stop.polled():
            return runner.run(stop)
    finally:
        receiver.close()
        if one_way is not None:
            one_way.close()
        runner.close()


def cloud_of(config: Config, monitor: Monitor, *, resume: bool) -> CloudRunner | Receiving:
    """What takes frames in. It trains the back itself, or starts workers that do, or leaves that to others."""
    from smartedge.cloud.receiving import Receiving
    from smartedge.cloud.runner import CloudRunner
    from smartedge.cloud.workers.launcher import Launched

    run, workers = config.run_dir, config.cloud.workers
    if workers == 1:
        return CloudRunner(config, run / "cloud", monitor, resume=resume, inline=False)
    start = None if workers == 0 else lambda: Launched(run, workers, monitor)
    return Receiving(config, run / "cloud", monitor, resume=resume, start=start)


def _is_complete(config: Config) -> bool:
    sides = ("edge", "cloud") if get_method(config.method).has_cloud else ("edge",)
    return all(has_finished(config.run_dir / side) for side in sides)


def _train_here(config: Config, monitor: Monitor, *, resume: bool) -> bool:
    import torch

    from smartedge.cloud.runner import CloudRunner
    from smartedge.edge.runner import EdgeRunner
    from smartedge.wire.memory import MemoryLink

    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    keep_freed_memory()
    cloud = None
    try:
        with stop_on_signals() as stop:
            if get_method(config.method).has_cloud:
                check_disk(config.run_dir / "cloud")
            dataset = open_data(config, monitor)
            _warn_of_early_releases(config, monitor)
            if get_method(config.method).has_cloud:
                cloud = CloudRunner(config, config.run_dir / "cloud", monitor, resume=resume, inline=True)
            sender = MemoryLink(cloud.ingest) if cloud else None
            runner = EdgeRunner(
                config, dataset, sender, config.run_dir / "edge", monitor, resume=resume, threaded=False
            )
            with stop.polled():
                return runner.run(stop)
    finally:
        if cloud is not None:
            cloud.close()
        torch.set_num_threads(threads)


def _warn_of_early_releases(config: Config, monitor: Monitor) -> None:
    if config.suppresses and not config.front_first:
        text = (
            f"with schedule '{config.schedule}' the features of the first epochs are sent before the front has "
            f"unlearned {', '.join(config.data.sensitive)}; 'two-stage' and 'freeze-and-log' unlearn first"
        )
        monitor.update(Update("edge", "privacy", text=text))


def _measured(config: Config) -> tuple[Config, Speed | None]:
    """The settings with a value for each that is ``auto``: that of the run that has begun, else the fastest now."""
    if not config.automatic:
        return config, None
    kept = config.run_dir / "config.yaml"
    if has_begun(config.run_dir) and kept.exists():
        before = load_config(kept).train
        chosen: dict[str, object] = {"precision": before.precision, "channels_last": before.channels_last}
        speed = None
    else:
        from smartedge.methods.speed import measure_speed
        from smartedge.runs.machine import pick_device

        speed = measure_speed(config, pick_device(config.hardware.edge_device, "hardware.edge_device"))
        chosen = {"precision": speed.precision, "channels_last": speed.channels_last}
    wanted = {key: chosen[key] for key in ("precision", "channels_last") if f"train.{key}" in config.automatic}
    return config.model_copy(update={"train": config.train.model_copy(update=wanted)}), speed

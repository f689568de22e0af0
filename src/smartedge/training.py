"""Runs training from Python: both sides as two processes, both in one process, or one side alone."""

from __future__ import annotations

import datetime
import hashlib
import json
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smartedge import errors
from smartedge.artifacts.results import Results
from smartedge.artifacts.run import RunFacts, Speed
from smartedge.artifacts.summary import has_finished
from smartedge.config import Config, differences, load_config, load_run_config
from smartedge.errors import RunError
from smartedge.files import private_folder, refuse_if_others_can_read, write_atomically
from smartedge.methods.base import get_method
from smartedge.processes import run_both
from smartedge.run_folder import has_begun, in_folder, name_of
from smartedge.runs.monitoring import watching
from smartedge.runs.noted import Noted
from smartedge.runs.progress import Bars, Monitor, Update
from smartedge.stopping import Stop, Stopped, stop_on_signals

if TYPE_CHECKING:
    from smartedge.artifacts.fleet import Bundle
    from smartedge.cloud.ingest import Ingest
    from smartedge.cloud.receiving import Receiving
    from smartedge.cloud.runner import CloudRunner
    from smartedge.data import DataSet
    from smartedge.fronts.bundle import PublishedFront
    from smartedge.wire.credentials import Credentials
    from smartedge.wire.grpc_link import GrpcLink
    from smartedge.wire.grpc_receiver import GrpcReceiver
    from smartedge.wire.jetstream.sender import JetStreamLink
    from smartedge.wire.link import FrameHandler, FrameSender
    from smartedge.wire.simplex.receiver import SimplexReceiver
    from smartedge.wire.simplex.sender import SimplexLink

__all__ = [
    "broker_link",
    "cloud_of",
    "collect",
    "dataset_of",
    "link_to",
    "one_way_link",
    "open_data",
    "receiver_for",
    "release_images",
    "run_cloud",
    "run_edge",
    "run_ingest",
    "train",
]

NATS = "nats://"  # before the address of a broker
UDP = "udp://"  # before the address of a cloud that is reached without a way back


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
            :func:`~smartedge.data.given.keep_given` describes them. It is read once and kept in ``run_dir/data``; a
            resumed run uses what is there. Labels without a name are called as ``data.desired``, or else ``label``.
        resume: continue the run that ``run_dir`` holds.
        single_process: the same steps without a socket, in this process; gives the same weights.
        monitor: takes progress updates; default: bars on standard error.

    Raises:
        SmartEdgeError: what went wrong on either side.
        Stopped: a ``KeyboardInterrupt``, after both sides have stopped cleanly.
    """
    settings = in_folder(load_config(config, overrides), name_of(config), resume=resume)
    if data is not None:
        settings = _with_data(settings, data)
    settings, speed = _measured(settings)
    run_dir = settings.run_dir
    facts = _prepare_run(settings, resume=resume, speed=speed)
    shown = monitor or Bars()
    if single_process:  # else each side's process keeps its progress
        shown = Noted(shown, run_dir)
    try:
        if single_process:
            finished = _is_complete(settings) or _train_here(settings, shown, resume=resume)
        else:
            finished = run_both(settings, shown, resume=resume, edge_has_finished=has_finished(run_dir / "edge"))
    finally:
        shown.close()
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

    Raises:
        LinkError: the cloud answers, but its certificate or this edge's is not accepted.
    """
    import torch

    from smartedge.edge.outage import run_again_after_outages
    from smartedge.edge.runner import EdgeRunner
    from smartedge.edge.watched import watched_edge

    config = in_folder(config.exact(), "run", ["edge"], resume=resume)
    torch.set_num_threads(config.threads)
    _note_facts(config, edge=True)
    method, stop = get_method(config.method), stop or Stop()
    sender = _sender(config, location, bundle) if method.has_cloud else None
    dataset = open_data(config, monitor)
    _warn_of_early_releases(config, monitor)

    def begin(resume: bool) -> EdgeRunner:
        return EdgeRunner(config, dataset, sender, config.run_dir / "edge", monitor, resume=resume, threaded=True)

    def tell(text: str) -> None:
        monitor.update(Update("edge", "link", text=text))

    if not method.answered:
        runner = begin(resume)
        watched = watched_edge(runner.sender, lambda: runner.state.counts.epochs)
        with watching(metrics, watched, tell), stop.watched():
            return runner.run(stop)
    with watching(metrics, watched_edge(None), tell), stop.watched():
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
    from smartedge.edge.watched import watched_edge
    from smartedge.fronts.runtime import OnnxFront

    _note_facts(config, edge=True)
    sender = _sender(config, location, bundle)
    front = OnnxFront(published, config.threads)

    def tell(text: str) -> None:
        monitor.update(Update("edge", "metrics", text=text))

    releaser, stop = Releaser(front, config, source, sender, monitor, resume=resume), stop or Stop()
    with watching(metrics, watched_edge(releaser.sender), tell), stop.watched():
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
    import torch

    from smartedge.cloud.watched import watched_cloud

    if not get_method(config.method).has_cloud:
        raise errors.ConfigError(
            f"method: '{config.method}' sends nothing, so there is no cloud to start; use 'smartedge edge'"
        )
    config = in_folder(config.exact(), "run", ["cloud"], resume=resume)
    torch.set_num_threads(config.threads)
    _note_facts(config, edge=False)
    runner = cloud_of(config, monitor, resume=resume)
    receiver = receiver_for(config, runner.ingest, host, port, fleet=fleet, behind_proxy=behind_proxy)
    one_way = None if udp is None else _one_way_receiver(runner.ingest, *udp, fleet=fleet)
    stop = stop or Stop()

    def tell(text: str) -> None:
        monitor.update(Update("cloud", "metrics", text=text))

    try:
        receiver.start()
        monitor.update(Update("cloud", "listen", text=f"listening on {host}:{receiver.port}", port=receiver.port))
        if udp is not None and one_way is not None:
            one_way.start()
            monitor.update(Update("cloud", "listen", text=f"listening for datagrams on {udp[0]}:{one_way.port}"))
        with watching(metrics, watched_cloud(runner, receiver), tell), stop.watched():
            return runner.run(stop)
    finally:
        receiver.close()
        if one_way is not None:
            one_way.close()
        runner.close()


def _sender(config: Config, location: str | None, bundle: Bundle | None) -> FrameSender:
    """The edge's end of a link of either kind."""
    if bundle is not None and location is None:
        location = bundle.cloud
    assert location is not None
    if location.startswith(UDP):
        return one_way_link(config, location, bundle)
    if location.startswith(NATS):
        return broker_link(config, location, bundle)
    return link_to(config, location, bundle, patient=False)  # the edge itself tries again, and says so


def cloud_of(config: Config, monitor: Monitor, *, resume: bool) -> CloudRunner | Receiving:
    """What takes frames in. It trains the back itself, or starts workers that do, or leaves that to others."""
    from smartedge.cloud.launcher import Launched
    from smartedge.cloud.receiving import Receiving
    from smartedge.cloud.runner import CloudRunner

    run, workers = config.run_dir, config.cloud.workers
    if workers == 1:
        return CloudRunner(config, run / "cloud", monitor, resume=resume, inline=False)
    start = None if workers == 0 else lambda: Launched(run, workers, monitor)
    return Receiving(config, run / "cloud", monitor, resume=resume, start=start)


def link_to(config: Config, location: str, bundle: Bundle | None = None, *, patient: bool = True) -> GrpcLink:
    """The edge's end of the link, with the credentials of the bundle, or else with those that the settings name.

    ``patient`` is that of :class:`~smartedge.wire.grpc_link.GrpcLink`.

    Raises:
        LinkError: the cloud answers, but its certificate or this edge's is not accepted.
    """
    from smartedge.fleet.bundle import credentials_of
    from smartedge.wire.grpc_link import GrpcLink
    from smartedge.wire.handshake import check_handshake

    credentials = _credentials(config) if bundle is None else credentials_of(bundle)
    check_handshake(location, credentials)
    link = config.link
    return GrpcLink(
        location, credentials, connect_timeout_s=link.connect_timeout, patient=patient, insecure=link.insecure
    )


def one_way_link(config: Config, location: str, bundle: Bundle | None) -> SimplexLink:
    """The edge's end of a link without a way back.

    Raises:
        ConfigError: without a bundle there is no key; or the method needs answers.
        LinkError: the libraries of the link are not installed, or its counter cannot be read.
    """
    from smartedge.wire.simplex.seal import Sealer
    from smartedge.wire.simplex.sender import SimplexLink

    if bundle is None:
        raise errors.ConfigError(f"{location}: a link without a way back needs --bundle FILE, which holds its key")
    if get_method(config.method).answered:
        raise errors.ConfigError(f"{location}: method {config.method!r} needs a link with a way back")
    folder, key = config.run_dir / "edge", bytes.fromhex(bundle.simplex_key)
    private_folder(folder)
    counter = folder / f"simplex-{hashlib.sha256(key).hexdigest()[:8]}.counter"
    return SimplexLink(
        location.removeprefix(UDP),
        Sealer(bundle.edge, key, counter),
        rate_bits_s=config.link.simplex_rate,
        loss=config.link.simplex_loss,
    )


def broker_link(config: Config, location: str, bundle: Bundle | None) -> JetStreamLink:
    """The edge's end of a link over a broker.

    Raises:
        ConfigError: the method needs answers, or the bundle holds a token and no certificate.
        LinkError: the location has another form, or the broker is not on this machine and there is no TLS.
    """
    from smartedge.fleet.bundle import credentials_of
    from smartedge.wire.jetstream.messages import Address
    from smartedge.wire.jetstream.sender import JetStreamLink
    from smartedge.wire.link import UNNAMED_EDGE

    if get_method(config.method).answered:
        raise errors.ConfigError(
            f"{location}: method {config.method!r} needs an answer to each frame before it goes on, and nothing goes "
            "back over a broker; connect to 'smartedge cloud' itself (HOST:PORT)"
        )
    if bundle is not None and bundle.certificate is None:
        raise errors.ConfigError(
            f"{location}: the bundle holds a token, and a broker needs a certificate; add the edge without --token"
        )
    return JetStreamLink(
        Address.parse(location),
        UNNAMED_EDGE if bundle is None else bundle.edge,
        _credentials(config) if bundle is None else credentials_of(bundle),
        timeout_s=config.link.connect_timeout,
        insecure=config.link.insecure,
    )


def run_ingest(
    config: Config, location: str, monitor: Monitor, *, fleet: Path | None = None, stop: Stop | None = None
) -> bool:
    """One of the processes that move frames from a broker into the store of a run. True when the run is complete.

    Args:
        config: the run's settings; all processes must have the same ``run_dir``.
        location: of the broker, ``nats://host:port/stream``.
        monitor: takes progress updates.
        fleet: a fleet's folder: its edges may send, and this process shows the certificate of 'smartedge fleet broker'.
            None: credentials are those of the settings, and the broker decides who may send.
        stop: set it to stop cleanly.

    Raises:
        ConfigError: the method sends nothing or needs answers.
        LinkError: the location has another form, or TLS is missing.
    """
    from smartedge.cloud.ingesting import IngestProcess
    from smartedge.fleet.broker import ingest_credentials
    from smartedge.fleet.register import Register
    from smartedge.wire.jetstream.messages import Address
    from smartedge.wire.jetstream.receiver import JetStreamReceiver

    method, address = get_method(config.method), Address.parse(location)
    if method.answered or not method.has_cloud:
        raise errors.ConfigError(f"method: '{config.method}' cannot send over a broker; use 'hierarchical' or 'upload'")
    credentials, register = _credentials(config), None
    if fleet is not None:
        credentials, register = ingest_credentials(fleet), Register(fleet)
    _note_facts(config, edge=False)
    process, stop = IngestProcess(config, config.run_dir / "cloud", monitor), stop or Stop()
    receiver = JetStreamReceiver(
        process.ingest,
        address,
        credentials,
        mine=process.mine,
        released=process.release,
        refusal=lambda edge: None if register is None else register.refusal(edge),
        insecure=config.link.insecure,
    )
    try:
        receiver.start()
        text = f"takes frames from {location} into {config.run_dir}"
        monitor.update(Update("cloud", "ingest", text=text))
        with stop.watched():
            return process.run(stop, receiver.raise_failure)
    finally:
        receiver.close()
        process.close()


def receiver_for(
    config: Config,
    handler: FrameHandler,
    host: str,
    port: int,
    *,
    fleet: Path | None = None,
    behind_proxy: bool = False,
    streams_per_edge: int = 1,
) -> GrpcReceiver:
    """The cloud's end of the link.

    Args:
        config: the run's settings.
        handler: takes the frames.
        host: where to listen.
        port: 0 for any free one.
        fleet: a fleet's folder: its edges may send, each by its certificate. None: token and certificates are those of
            the settings, and every sender that shows them may send.
        behind_proxy: a proxy of this machine ends TLS, so the fleet's edges show tokens.
        streams_per_edge: how many an edge may have open at the same time.

    Raises:
        FleetError: the fleet's files cannot be used.
        ConfigError: the settings name credentials beside those of the fleet.
    """
    from smartedge.fleet.bundle import cloud_credentials
    from smartedge.fleet.register import Register
    from smartedge.wire.credentials import Credentials
    from smartedge.wire.grpc_receiver import GrpcReceiver, Limits

    guard, credentials, link = None, _credentials(config), config.link
    if fleet is not None:
        if credentials != Credentials():
            raise errors.ConfigError("link.token_file, link.tls_*: remove them, since --fleet says who may send")
        guard = Register(fleet)
        credentials = Credentials() if behind_proxy else cloud_credentials(fleet)
    limits = Limits(streams_per_edge=streams_per_edge)
    return GrpcReceiver(
        handler, host, port, credentials=credentials, guard=guard, limits=limits, insecure=link.insecure
    )


def _one_way_receiver(ingest: Ingest, host: str, port: int, *, fleet: Path | None) -> SimplexReceiver:
    """The cloud's end of links without a way back.

    Raises:
        ConfigError: without a fleet there are no keys.
        FleetError: the fleet's files cannot be used.
    """
    from smartedge.fleet.register import SimplexRegister
    from smartedge.wire.simplex.receiver import SimplexReceiver

    if fleet is None:
        raise errors.ConfigError("--listen-udp: only with --fleet DIR, which holds the edges' keys")
    return SimplexReceiver(ingest, SimplexRegister(fleet).keys, host, port)


def _credentials(config: Config) -> Credentials:
    """The credentials that the settings name."""
    from smartedge.wire.credentials import Credentials

    link = config.link
    return Credentials.from_files(ca=link.tls_ca, certificate=link.tls_cert, key=link.tls_key, token=_token(config))


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
    cloud = None
    try:
        with stop_on_signals() as stop:
            dataset = open_data(config, monitor)
            _warn_of_early_releases(config, monitor)
            if get_method(config.method).has_cloud:
                cloud = CloudRunner(config, config.run_dir / "cloud", monitor, resume=resume, inline=True)
            sender = MemoryLink(cloud.ingest) if cloud else None
            runner = EdgeRunner(
                config, dataset, sender, config.run_dir / "edge", monitor, resume=resume, threaded=False
            )
            with stop.watched():
                return runner.run(stop)
    finally:
        if cloud is not None:
            cloud.close()
        torch.set_num_threads(threads)


def dataset_of(config: Config) -> DataSet:
    """The data set that the settings name. Subsets and splits do not depend on ``config.seed``.

    Raises:
        DataError: as :func:`smartedge.data.open_dataset`.
    """
    from smartedge.data import open_dataset, shard

    data = config.data
    whole = open_dataset(
        data.path,
        data.desired,
        sensitive=data.sensitive,
        image_size=data.image_size,
        fit=data.fit,
        limit=data.limit,
        cache_dir=data.cache_dir,
        cache_bytes=data.cache_bytes,
        audit_share=config.audit_share,
    )
    if whole.task.blanks and config.dp.label_epsilon is not None:
        raise errors.DataError(
            f"{whole.name} lacks some of the labels, and dp.label_epsilon cannot hide which: fill them, name columns "
            "that are whole in data.desired, or leave dp.label_epsilon out"
        )
    return whole if data.shard is None else shard(whole, *data.part)


def open_data(config: Config, monitor: Monitor) -> DataSet:
    """The data set that the settings name. ``monitor`` gets its notes, and the number of images left out."""
    dataset = dataset_of(config)
    told = [*dataset.notes, *(f"left out {count} images: {reason}" for reason, count in dataset.skipped.items())]
    for text in told:
        monitor.update(Update("edge", "data", text=text))
    return dataset


def _warn_of_early_releases(config: Config, monitor: Monitor) -> None:
    if config.suppresses and not config.front_first:
        text = (
            f"with schedule '{config.schedule}' the features of the first epochs are sent before the front has "
            f"unlearned {', '.join(config.data.sensitive)}; 'two-stage' and 'freeze-and-log' unlearn first"
        )
        monitor.update(Update("edge", "privacy", text=text))


def _token(config: Config) -> str | None:
    path = config.link.token_file
    if path is None:
        return None
    try:
        refuse_if_others_can_read(path, errors.ConfigError, "the token (link.token_file)")
        token = path.read_text(encoding="utf-8").split("\n")[0].strip()
    except OSError as error:
        raise errors.ConfigError(f"link.token_file: {path} cannot be read ({error})") from error
    if not token:
        raise errors.ConfigError(f"link.token_file: the first line of {path} is empty; write a secret there")
    return token


# -- the run directory


def _with_data(config: Config, data: object) -> Config:
    """The settings with a data set that is given in Python, which is kept in the run's directory."""
    from smartedge.data.given import keep_given

    named, folder = config.data.model_fields_set, config.run_dir / "data"
    if "path" in named and config.data.path != str(folder):
        raise errors.ConfigError("data.path: leave it out, since the data set itself is given (data=)")
    desired = config.data.desired if "desired" in named else "label"
    if not has_begun(config.run_dir):
        keep_given(data, folder, (desired,) if isinstance(desired, str) else desired)
    chosen = {"path": str(folder), "desired": desired}
    return config.model_copy(update={"data": config.data.model_copy(update=chosen)})


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


def _prepare_run(config: Config, *, resume: bool, speed: Speed | None = None) -> RunFacts:
    """Make the run directory, or check that it holds this run; returns facts for the results."""
    if config.several_edges:
        raise errors.ConfigError(
            "fleet.expect: 'smartedge train' runs one edge; start 'smartedge cloud', and 'smartedge edge' on each "
            "device"
        )
    run_dir = config.run_dir
    facts_file = run_dir / "run.json"
    if facts_file.exists() and has_begun(run_dir):
        if not resume:
            raise RunError(
                f"{run_dir}: holds a run already; continue it with --resume, or choose another run_dir "
                "(--set run_dir=...)"
            )
        _refuse_other_settings(config)
        edge_done = has_finished(run_dir / "edge")
        if not edge_done:
            shutil.rmtree(run_dir / "cloud" / "closed", ignore_errors=True)  # the cloud must wait for the edge again
        return RunFacts.read(facts_file)
    if resume and not facts_file.exists() and run_dir.exists():
        raise RunError(f"{run_dir}: there is no run to resume; start it without --resume")
    return _write_facts(config, speed)


def _write_facts(config: Config, speed: Speed | None = None) -> RunFacts:
    """Write the settings and the machine into the run directory."""
    from smartedge.runs.machine import describe_machine, versions

    run_dir = config.run_dir
    facts_file, config_file = run_dir / "run.json", run_dir / "config.yaml"
    private_folder(run_dir)
    write_atomically(config_file, config.to_yaml())
    facts = RunFacts(
        machine=describe_machine(),
        versions=versions(),
        started=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        speed=speed,
    )
    facts.write(facts_file)
    return facts


def _note_facts(config: Config, *, edge: bool) -> None:
    """For a side that runs alone: write settings and machine, or compare the settings with those of the run.

    The cloud need not know the sensitive columns or the paths of the data. So only settings that matter to it are
    compared.
    """
    if has_begun(config.run_dir):
        _refuse_other_settings(config, edge=edge)
        return
    file = config.run_dir / "config.yaml"
    kept = file.read_text(encoding="utf-8") if (config.run_dir / "run.json").exists() and file.exists() else None
    if kept != config.to_yaml():  # there are none, or a first start failed
        _write_facts(config)


def _refuse_other_settings(config: Config, *, edge: bool = True) -> None:
    """Refuse settings that would change the results of a run that has begun."""
    file = config.run_dir / "config.yaml"
    if not file.exists():
        raise RunError(f"{config.run_dir}: a run has begun there, but its settings are gone; restore {file}")
    before = load_config(file)
    changed = (
        differences(before.identity(), config.identity())
        if edge
        else differences(before.cloud_identity(), config.cloud_identity())
    )
    if changed:
        told = "; ".join(f"{key} was {json.dumps(old)}, now {json.dumps(new)}" for key, (old, new) in changed.items())
        raise RunError(
            f"{config.run_dir}: the run began with other settings ({told}); resume it with {file}, or start a new run "
            "in another run_dir"
        )

"""Two network namespaces joined by a shaped link, and capped processors: a weak edge and a cloud on one machine.

Linux, root, two cores. Each side is pinned to a core of its own and held to a share of it by the kernel's bandwidth
control (cgroup v1 or v2); each direction of the link has ``tbf`` for its rate and, where it has latency, ``netem`` for
its delay (not every kernel has it). What was set is read back from the kernel, and what the link really does is probed
before it is used: a shaped link that was not shaped proves nothing. The kernel also counts for how long each side had
to stop because its share was used up (:meth:`Lab.throttled`).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from smartedge.artifacts.plan import Link

__all__ = ["ADDRESS", "LONG_QUOTA_US", "SHORT_QUOTA_US", "Lab", "why_not"]

Side = Literal["edge", "cloud"]

ADDRESS: dict[Side, str] = {"edge": "10.77.13.1", "cloud": "10.77.13.2"}
_CORE = {"edge": 0, "cloud": 1}
_PERIOD_US = 20_000  # of the cap: short, so that a step's time is near its mean
# A side computes for at least so long at once. Less: each slice begins with cold caches, so a step takes more processor
# time. More: a side that computes only now and then is not slowed.
SHORT_QUOTA_US, LONG_QUOTA_US = 5_000, 50_000
_WEIGHT = 100  # times that of another process on this machine: what a side may use, it gets
_BURST = 3000  # bytes that may leave at once: two packets
_QUEUE_BYTES, _QUEUE_S = 300 * 1024, 2.5  # what may wait for the link: the smaller of the two
_PROBE_S = 4.0
_CGROUPS = Path("/sys/fs/cgroup")


_ENTER = """
import os, sys
def enter():
    os.write(int(sys.argv.pop(1)), b"0")  # 0: the process that writes
"""
_SMARTEDGE = """
import contextlib
with contextlib.suppress(ImportError):
    import torch.utils.tensorboard  # which a run imports after its clock has started
import smartedge.cloud.runner, smartedge.edge.runner, smartedge.wire.grpc_link, smartedge.wire.grpc_receiver
from smartedge.cli.app import main
enter()
sys.exit(main(sys.argv[1:]))
"""


def why_not() -> str | None:
    """Why this machine cannot do it; None where it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs Linux and root, for network namespaces and processor caps"
    if (os.cpu_count() or 1) < 2:
        return "needs two cores, one for each side"
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            return f"needs {tool} (Debian: iproute2)"
    name = f"smartedge-try-{os.getpid()}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if tried.returncode:
        return f"network namespaces are not permitted here: {tried.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return _why_no_cap(name)


def _why_no_cap(name: str) -> str | None:
    """Why the kernel lets nobody cap a processor here; None where it does: it is tried."""
    group = _controller() / name
    try:
        group.mkdir()
        _set_cap(group, 0.5, SHORT_QUOTA_US)
    except OSError as error:
        return (
            f"processors cannot be capped here: {error}. The cpu controller of cgroup v1 must be mounted at "
            f"{_CGROUPS / 'cpu'}, or that of cgroup v2 be enabled (echo +cpu > {_CGROUPS / 'cgroup.subtree_control'})"
        )
    finally:
        if group.is_dir():
            group.rmdir()
    return None


@dataclass(frozen=True)
class Lab:
    """Made by :meth:`open`."""

    caps: dict[str, float]  # share of one core that each side may use
    least_quota_us: int  # microseconds for which a side may compute at once

    @staticmethod
    @contextlib.contextmanager
    def open(
        link: Link, *, edge_cap: float, cloud_cap: float = 1.0, least_quota_us: int = SHORT_QUOTA_US
    ) -> Iterator[Lab]:
        """Namespaces, link and caps, for as long as the context lasts.

        Args:
            link: rates in Mbit/s (None: not shaped), one-way latency.
            edge_cap: share of one core that the edge may use.
            cloud_cap: the same for the cloud.
            least_quota_us: microseconds for which a side may compute at once; more where its share asks for it.
        """
        lab = Lab({"edge": edge_cap, "cloud": cloud_cap}, least_quota_us)
        lab._clear()
        try:
            lab._make(link)
            yield lab
        finally:
            lab._clear()

    def start(self, side: Side, command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """Start a process on one side."""
        enter = ["ip", "netns", "exec", _space(side), "taskset", "-c", str(_CORE[side]), *command]
        group = _controller() / _space(side) / "cgroup.procs"
        child = subprocess.Popen(enter, text=True, preexec_fn=lambda: group.write_text(str(os.getpid())), **options)
        return child

    def start_smartedge(self, side: Side, arguments: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """Start ``smartedge`` with these arguments on one side; it is capped from when it has imported everything.

        At a twentieth of a core, importing torch would take a minute, and no figure contains it.
        """
        return self.start_prepared(side, _SMARTEDGE, arguments, **options)

    def start_prepared(self, side: Side, code: str, arguments: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """Start Python code on one side, which is capped from when it calls ``enter()``."""
        enter = ["ip", "netns", "exec", _space(side), "taskset", "-c", str(_CORE[side])]
        with (_controller() / _space(side) / "cgroup.procs").open("w") as group:
            number = group.fileno()
            command = [*enter, sys.executable, "-c", _ENTER + code, str(number), *arguments]
            return subprocess.Popen(command, text=True, pass_fds=(number,), **options)

    def cap(self) -> None:
        """Hold both sides to their shares again, after :meth:`lift`."""
        for side, share in self.caps.items():
            _set_cap(_controller() / _space(side), share, self.least_quota_us)

    def lift(self, side: Side) -> None:
        """Let one side have a whole core from now on: what is left to it is measured by nobody."""
        _set_cap(_controller() / _space(side), 1.0, self.least_quota_us)

    def throttled(self) -> dict[str, dict[str, float]]:
        """Since the lab was opened, by side: periods, those in which its share was used up, seconds it stood still."""
        return {side: _throttled(_controller() / _space(side)) for side in ADDRESS}

    def run(self, side: Side, command: Sequence[str]) -> str:
        """Run a command on one side; what it printed."""
        with self.start(side, command, stdout=subprocess.PIPE) as child:
            out, _ = child.communicate()
        if child.returncode:
            raise subprocess.CalledProcessError(child.returncode, command)
        return out

    def facts(self) -> dict[str, Any]:
        """What the kernel says was set, and what a probe measured."""
        found: dict[str, Any] = {"cap": {side: _cap_of(side) for side in ADDRESS}, "qdisc": {}}
        found["least_quota_us"] = self.least_quota_us
        for side in ADDRESS:
            text = self.run(side, ["tc", "-j", "qdisc", "show", "dev", _device(side)])
            found["qdisc"][side] = [
                {"kind": each["kind"], **{k: v for k, v in each.get("options", {}).items() if k in ("rate", "delay")}}
                for each in json.loads(text)
            ]
        found["measured"] = {
            "up_mbits": self._throughput("edge", "cloud"),
            "down_mbits": self._throughput("cloud", "edge"),
            "round_trip_ms": self._round_trip(),
            "processor_share": {side: self._processor_share(side) for side in ("edge", "cloud")},
        }
        return found

    def _throughput(self, source: Side, sink: Side) -> float:
        """Mbit/s of TCP payload that arrive while one connection is kept full."""
        code = "import sys; sys.path.insert(0, sys.argv[1]); import shaping; shaping.{}(sys.argv[2])"
        here = str(Path(__file__).parent)
        python = [sys.executable, "-c"]
        sink_command = [*python, code.format("probe_sink"), here, ADDRESS[sink]]
        source_command = [*python, code.format("probe_source"), here, ADDRESS[sink]]
        with self.start(sink, sink_command, stdout=subprocess.PIPE) as listening:
            assert listening.stdout is not None
            listening.stdout.readline()  # it listens
            with self.start(source, source_command):
                return float(listening.stdout.readline())

    def _round_trip(self) -> float:
        """Milliseconds that a connection takes to open, the median of several: one round trip."""
        code = (
            "import socket, sys\n"
            "s = socket.create_server((sys.argv[1], 9999)); print('ready', flush=True); s.settimeout(20)\n"
            "for _ in range(5): s.accept()"
        )
        client = (
            "import socket, sys, time\n"
            "for _ in range(5):\n"
            "    t = time.perf_counter(); c = socket.create_connection((sys.argv[1], 9999))\n"
            "    print(1000 * (time.perf_counter() - t)); c.close()"
        )
        with self.start("cloud", [sys.executable, "-c", code, ADDRESS["cloud"]], stdout=subprocess.PIPE) as server:
            assert server.stdout is not None
            server.stdout.readline()
            out = self.run("edge", [sys.executable, "-c", client, ADDRESS["cloud"]])
        return statistics.median(float(line) for line in out.split())

    def _processor_share(self, side: Side) -> float:
        """Of one core, that a process which never waits gets."""
        code = (
            "import sys, time; t, c = time.perf_counter(), time.process_time()\n"
            "while time.perf_counter() - t < float(sys.argv[1]): pass\n"
            "print((time.process_time() - c) / (time.perf_counter() - t))"
        )
        seconds = max(1.0, 4e-6 * self.least_quota_us / self.caps[side])  # several periods of the cap
        return float(self.run(side, [sys.executable, "-S", "-c", code, str(seconds)]))

    def _make(self, link: Link) -> None:
        for side in ADDRESS:
            _do("ip", "netns", "add", _space(side))
        edge, cloud = _device("edge"), _device("cloud")
        peer = ("peer", "name", cloud, "netns", _space("cloud"))
        _do("ip", "link", "add", edge, "netns", _space("edge"), "type", "veth", *peer)
        rates = {"edge": link.up_mbits, "cloud": link.down_mbits}
        for side, address in ADDRESS.items():
            inside, device = ("ip", "-n", _space(side)), _device(side)
            _do(*inside, "addr", "add", f"{address}/24", "dev", device)
            # Whole segments of 64 KiB would pass a delay queue as one packet, without the headers of the many.
            _do(*inside, "link", "set", "dev", device, "gso_max_segs", "1", "up")
            _do(*inside, "link", "set", "lo", "up")
            control = ("tc", "-n", _space(side), "qdisc", "add", "dev", device)
            rate = rates[side]
            if rate is not None:
                limits = ("burst", str(_BURST), "limit", f"{min(_QUEUE_BYTES, round(_QUEUE_S * rate * 1e6 / 8))}b")
                _do(*control, "root", "handle", "1:", "tbf", "rate", f"{rate}mbit", *limits)
                if link.latency_s:
                    _do(*control, "parent", "1:1", "handle", "2:", "netem", "delay", f"{1000 * link.latency_s:g}ms")
            group = _controller() / _space(side)
            group.mkdir()
        self.cap()

    def _clear(self) -> None:
        for side in ADDRESS:
            subprocess.run(["ip", "netns", "del", _space(side)], capture_output=True)
            with contextlib.suppress(FileNotFoundError):
                (_controller() / _space(side)).rmdir()


def probe_sink(address: str) -> None:
    """Takes what comes for a while, and prints the rate in Mbit/s."""
    with socket.create_server((address, 9998)) as server:
        print("ready", flush=True)
        connection, _ = server.accept()
        with connection:
            connection.recv(1 << 16)
            begun, got = time.perf_counter(), 0
            while time.perf_counter() - begun < _PROBE_S and (data := connection.recv(1 << 16)):
                got += len(data)
            print(8e-6 * got / (time.perf_counter() - begun), flush=True)


def probe_source(address: str) -> None:
    """Sends as fast as it goes, until nobody takes it."""
    with contextlib.suppress(OSError), socket.create_connection((address, 9998), timeout=20) as connection:
        while True:
            connection.sendall(bytes(1 << 14))


def _space(side: str) -> str:
    return f"smartedge-{side}-{os.getpid()}"


def _device(side: str) -> str:
    return f"se-{side}"


def _controller() -> Path:
    """Where cgroups of the processor are made, of either version."""
    return _CGROUPS / "cpu" if (_CGROUPS / "cpu").is_dir() else _CGROUPS


def _set_cap(group: Path, share: float, least_quota_us: int) -> None:
    """Hold the processes of a cgroup to this share of one core, and let them go before others on it."""
    period = max(_PERIOD_US, round(least_quota_us / share))
    quota = round(period * share)
    if (group / "cpu.max").exists():
        (group / "cpu.max").write_text(f"{quota} {period}")
        (group / "cpu.weight").write_text(str(100 * _WEIGHT))
    else:
        (group / "cpu.shares").write_text(str(1024 * _WEIGHT))
        (group / "cpu.cfs_period_us").write_text(str(period))
        (group / "cpu.cfs_quota_us").write_text(str(quota))


def _throttled(group: Path) -> dict[str, float]:
    found = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
    stood = int(found["throttled_usec"]) / 1e6 if "throttled_usec" in found else int(found["throttled_time"]) / 1e9
    return {"periods": int(found["nr_periods"]), "throttled": int(found["nr_throttled"]), "seconds": stood}


def _cap_of(side: str) -> float:
    group = _controller() / _space(side)
    if (group / "cpu.max").exists():
        quota, period = (int(part) for part in (group / "cpu.max").read_text().split())
    else:
        quota, period = (int((group / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
    return quota / period


def _do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")

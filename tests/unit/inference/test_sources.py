"""Where images come from while a process stays up."""

from __future__ import annotations

import io
import itertools
import os
import threading
import time

import numpy as np
import pytest
from PIL import Image

from smartedge.errors import ConfigError, DataError
from smartedge.inference.sources import open_source


def write(file, shade: int = 100) -> None:
    Image.fromarray(np.full((20, 30, 3), shade, np.uint8)).save(file)
    os.utime(file, (1, 1))  # long ago: written to its end


def test_a_folder_is_read_and_then_watched(tmp_path):
    write(tmp_path / "b.png"), write(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_bytes(b"")
    stop = threading.Event()
    source = open_source(str(tmp_path), 16, stop)
    first = [next(source), next(source)]
    assert [os.path.basename(shown.name) for shown in first] == ["a.png", "b.png"]
    assert first[0].pixels_CHW.shape == (3, 16, 16) and first[0].pixels_CHW.dtype == np.uint8
    write(tmp_path / "c.png")
    assert os.path.basename(next(source).name) == "c.png"
    write(tmp_path / "a.png", shade=200)
    os.utime(tmp_path / "a.png", (2, 2))
    assert next(source).pixels_CHW.max() == 200, "a file that was changed is shown again"
    stop.set()
    assert list(source) == []


def test_a_file_that_is_still_written_is_waited_for(tmp_path):
    write(tmp_path / "done.png"), write(tmp_path / "new.png")
    os.utime(tmp_path / "new.png")  # changed just now
    source = open_source(str(tmp_path), 16, threading.Event())
    assert os.path.basename(next(source).name) == "done.png"
    os.utime(tmp_path / "new.png", (1, 1))
    assert os.path.basename(next(source).name) == "new.png"


def test_a_file_from_the_future_is_answered_when_it_no_longer_changes(tmp_path):
    write(tmp_path / "ahead.png")
    an_hour_on = time.time() + 3600
    os.utime(tmp_path / "ahead.png", (an_hour_on, an_hour_on))
    stop = threading.Event()
    timer = threading.Timer(60, stop.set)
    timer.start()
    assert [os.path.basename(shown.name) for shown in itertools.islice(open_source(str(tmp_path), 16, stop), 1)] == [
        "ahead.png"
    ]
    timer.cancel()


def test_a_folder_with_many_files_does_not_take_the_processor(tmp_path, monkeypatch):
    clock = itertools.count(0.0, 0.7)  # each look takes 0.7 s
    monkeypatch.setattr("smartedge.inference.sources.time.monotonic", lambda: next(clock))
    stop, rests = threading.Event(), []

    def wait(timeout: float) -> bool:
        rests.append(timeout)
        return len(rests) == 2

    monkeypatch.setattr(stop, "wait", wait)
    assert list(open_source(str(tmp_path), 16, stop)) == []
    assert rests == pytest.approx([6.3, 6.3])


def test_folders_in_a_folder_are_told_once(tmp_path, monkeypatch):
    stop, told = threading.Event(), []
    for name in ("2026", ".trash", "night.jpg"):
        (tmp_path / name).mkdir()
    write(tmp_path / "2026" / "lost.png"), write(tmp_path / "a.png")
    more = iter(["2027", "2027", None])

    def wait(timeout: float) -> bool:
        if name := next(more):
            (tmp_path / name).mkdir(exist_ok=True)
        return name is None

    monkeypatch.setattr(stop, "wait", wait)
    shown = list(open_source(str(tmp_path), 16, stop, tell=told.append))
    assert [os.path.basename(each.name) for each in shown] == ["a.png"]
    assert told == [
        f"{tmp_path}: images are not looked for in the folders in it: {names}" for names in ("2026, night.jpg", "2027")
    ]


def test_once(tmp_path):
    write(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"damaged")
    shown = list(open_source(str(tmp_path), 16, threading.Event(), once=True))
    assert [each.problem for each in shown] == ["", "image cannot be decoded"]
    assert shown[1].pixels_CHW is None


def test_names_on_standard_input(tmp_path):
    write(tmp_path / "a.png")
    lines = io.StringIO(f"{tmp_path / 'a.png'}\n\n{tmp_path / 'gone.png'}\n")
    shown = list(open_source("-", 16, threading.Event(), lines=lines))
    assert [each.problem for each in shown] == ["", "image file missing"]


def write_video(file: str, codec: str, pixels: str, pictures: int) -> None:
    """Ten pictures a second, each of one shade: 0, 8, 16, ..."""
    av = pytest.importorskip("av")
    with av.open(file, "w") as film:
        stream = film.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        for number in range(pictures):
            picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 8 * number, np.uint8), format="rgb24")
            film.mux(stream.encode(picture))
        film.mux(stream.encode())


def test_a_video(tmp_path):
    file = str(tmp_path / "film.mp4")
    write_video(file, "mpeg4", "yuv420p", 30)
    shown = list(open_source(file, 16, threading.Event(), every=1.0))
    assert [each.name for each in shown] == [f"{file}@0.000", f"{file}@1.000", f"{file}@2.000"]
    shades = [float(each.pixels_CHW.mean()) for each in shown]
    assert np.allclose(shades, [0, 80, 160], atol=6)
    assert len(list(open_source(file, 16, threading.Event(), every=0.1))) == 30


def test_a_camera_that_delivers_nothing_is_told_and_can_be_stopped(tmp_path, monkeypatch):
    pytest.importorskip("av")
    monkeypatch.setattr("smartedge.inference.sources._SILENT_S", 0.0)
    file, stop, told = tmp_path / "film.mp4", threading.Event(), []
    os.mkfifo(file)  # whoever opens it waits for the other side, in a library

    def tell(text: str) -> None:
        told.append(text)
        stop.set()

    assert list(open_source(str(file), 16, stop, every=1.0, tell=tell)) == []
    assert told == [f"{file}: no picture has come for 1 s"]
    os.close(os.open(file, os.O_WRONLY | os.O_NONBLOCK))  # its thread ends


def test_a_video_that_is_left_ends_its_thread(tmp_path):
    file = str(tmp_path / "film.mp4")
    write_video(file, "mpeg4", "yuv420p", 30)
    source = open_source(file, 16, threading.Event(), every=0.1)
    next(source)
    (thread,) = [each for each in threading.enumerate() if each.name == "smartedge-source"]
    source.close()
    thread.join(timeout=30)
    assert not thread.is_alive()


def test_a_damaged_picture_does_not_end_a_video(tmp_path):
    file = tmp_path / "film.avi"
    write_video(str(file), "mjpeg", "yuvj420p", 6)
    content = bytearray(file.read_bytes())
    begins = [place for place in range(len(content)) if content.startswith(b"\xff\xd8\xff", place)]
    assert len(begins) == 6
    content[begins[2] : begins[3] - 20] = bytes(begins[3] - 20 - begins[2])
    file.write_bytes(content)
    shown = list(open_source(str(file), 16, threading.Event(), every=0.1))
    assert [each.pixels_CHW is None for each in shown] == [False, False, True, False, False, False]
    assert shown[2].problem == "the picture after this one is damaged" and shown[2].name == f"{file}@0.100"


@pytest.mark.parametrize("where", ["nowhere", "film.mp4"])
def test_what_is_no_source(tmp_path, monkeypatch, where):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "film.mp4").write_bytes(b"no film")
    with pytest.raises(DataError, match="--source"):
        list(open_source(where, 16, threading.Event()))
    with pytest.raises(ConfigError, match="--every"):
        open_source(".", 16, threading.Event(), every=0.0)

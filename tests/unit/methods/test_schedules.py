"""Schedules and methods as tables: what a run has of epochs and streams, and a method that is not in the package."""

from __future__ import annotations

import pytest

from smartedge.config import load_config
from smartedge.errors import ConfigError
from smartedge.methods.base import METHODS, get_method
from smartedge.methods.schedules import SCHEDULES, get_schedule


def streams(**settings):
    config = load_config({"epochs": 2, **settings})
    return [f"{split} {number}" for number, split in get_schedule(config.schedule).streams(config)]


EVERY_EPOCH = ["train 0", "val 0", "train 1", "val 1", "test 1"]


@pytest.mark.parametrize(
    ("settings", "expected", "releases"),
    [
        ({}, EVERY_EPOCH, 2),
        ({"method": "split"}, EVERY_EPOCH, 2),
        ({"method": "upload"}, EVERY_EPOCH, 2),
        ({"method": "local"}, [], 0),
        (
            {"schedule": "two-stage", "train": {"front_epochs": 3}},
            ["train 3", "val 3", "train 4", "val 4", "test 4"],
            2,
        ),
        ({"schedule": "freeze-and-log", "train": {"front_epochs": 3}}, ["train 3", "val 3", "test 3"], 1),
        ({"schedule": "freeze-and-log", "method": "upload"}, ["train 0", "val 0", "test 0"], 1),
    ],
)
def test_the_streams_of_a_run(settings, expected, releases):
    assert streams(**settings) == expected
    assert load_config({"epochs": 2, **settings}).releases == releases


def test_a_front_that_learns_first_sends_nothing_meanwhile():
    config = load_config({"epochs": 2, "schedule": "two-stage", "train": {"front_epochs": 3}})
    epochs = get_schedule(config.schedule).epochs(config)
    assert [(epoch.learns, epoch.sends) for epoch in epochs] == [(True, False)] * 3 + [(False, True)] * 2
    assert [epoch.splits[-1] for epoch in epochs] == ["val", "val", "test", "val", "test"]
    assert all(epoch.shuffled for epoch in epochs)


def test_what_is_sent_once_is_sent_as_it_is():
    config = load_config({"epochs": 2, "schedule": "freeze-and-log"})
    assert [epoch.shuffled for epoch in get_schedule(config.schedule).epochs(config)] == [True, True, False]


def test_frames_are_joined_where_nobody_waits_for_them():
    assert [schedule.most_joined(320) for schedule in SCHEDULES.values()] == [20, 20, 320]
    assert get_schedule("joint").most_joined(3) == 1


def test_the_tables_and_the_settings_name_the_same():
    for name in METHODS:
        assert load_config({"method": name}).method == get_method(name).name
    for name in SCHEDULES:
        assert load_config({"schedule": name}).schedule == get_schedule(name).name
    with pytest.raises(ConfigError, match="'joint', 'two-stage' or 'freeze-and-log', got 'once'"):
        load_config({"schedule": "once"})

"""The ledger: durable, exact, and closed whenever something is wrong."""

from __future__ import annotations

import math
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import unsynced

from smartedge.errors import ConfigError, PrivacyError
from smartedge.privacy import balance as module
from smartedge.privacy.accountant import composed_epsilon
from smartedge.privacy.balance import Balance, Budget, read_balance, same_policy
from smartedge.privacy.ledger import Ledger, take_over
from smartedge.privacy.place import frames_noted, place_of
from smartedge.types import ReleaseEvent

HALF = ReleaseEvent("randomised-response", 0.5, codewords=8)
GAUSS = ReleaseEvent("gaussian", 1.0, 1e-5, noise_multiplier=5.0)
NOTHING = ReleaseEvent("none", math.inf)
POLICY = {"mechanism": "test"}
IDS = np.arange(4)


def opened(path: Path, *, run="run", policy=POLICY, epsilon=math.inf, existing=False) -> Ledger:
    return Ledger(path, run, policy=policy, budget=Budget(epsilon, 1e-5), existing=existing)


def nonce(number: int) -> bytes:
    return number.to_bytes(16, "big")


def test_every_image_of_every_release_is_a_row(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with opened(path) as ledger:
        assert ledger.debit("train", IDS, GAUSS, seq=0, nonce=nonce(0), label_event=NOTHING)
        assert ledger.debit("train", np.array([3, 4]), GAUSS, seq=1, nonce=nonce(1), label_event=NOTHING)
        assert ledger.debit("val", IDS, GAUSS, seq=2, nonce=nonce(2), label_event=NOTHING)
        assert ledger.releases("train") == 2
        assert ledger.releases("test") == 0
        mine = ledger.balance()
    assert mine == read_balance(path)
    by_group = {(group.split, group.releases): (group.images, group.example) for group in mine.groups}
    assert by_group == {("train", 1): (4, 0), ("train", 2): (1, 3), ("val", 1): (4, 0)}
    worst = mine.worst()
    assert (worst.split, worst.example, worst.releases) == ("train", 3, 2)
    assert worst.epsilon == composed_epsilon({GAUSS: 2}, 1e-5)
    assert worst.label_epsilon == math.inf
    assert mine.quantile(0.8, "train") == composed_epsilon({GAUSS: 1}, 1e-5)
    assert mine.quantile(0.81, "train") == mine.quantile(1.0, "train") == worst.epsilon
    rows = sqlite3.connect(path).execute("SELECT count(*), count(DISTINCT frame) FROM releases").fetchall()
    assert rows == [(10, 3)]


def test_a_ledger_on_a_disk_that_can_only_be_read_is_read(tmp_path, monkeypatch):
    """SQLite's own files beside it cannot be made there. Where one has changes that the ledger lacks: an error."""
    path = tmp_path / "l"
    with opened(path) as ledger:
        ledger.debit("train", IDS, GAUSS, seq=0, nonce=nonce(0))
        mine = ledger.balance()
    (tmp_path / "l-shm").symlink_to(tmp_path / "nowhere" / "l-shm")
    monkeypatch.setattr(os, "access", lambda place, how: False)
    assert read_balance(path) == mine
    (tmp_path / "l-wal").write_bytes(bytes(100))
    with pytest.raises(PrivacyError, match="unable to open"):
        read_balance(path)


def test_the_last_digits_of_a_policys_numbers_may_differ(tmp_path):
    """They depend on the mathematical library; a run goes on after an update. Another σ is another policy."""
    policy = {"mechanism": "gaussian", "sigma": 0.7461264123456789, "feature_shape": [2, 2]}
    with opened(tmp_path / "l", policy=policy) as ledger:
        ledger.debit("train", IDS, GAUSS, seq=0, nonce=nonce(0))
    opened(tmp_path / "l", policy={**policy, "sigma": 0.7461264123456781}, existing=True).close()
    for other in ({**policy, "sigma": 0.7461265}, {**policy, "clip": 1.0}, {"mechanism": "gaussian"}):
        with pytest.raises(PrivacyError, match="other settings"):
            opened(tmp_path / "l", policy=other, existing=True)


def test_a_policy_with_a_fact_more_is_another_one():
    policy = {"mechanism": "gaussian", "sigma": 0.4}
    assert not same_policy(policy, {**policy, "clip": 1.0}) and not same_policy({**policy, "clip": 1.0}, policy)


def test_a_copy_is_refused_until_it_is_taken_over(tmp_path):
    """Two copies of a ledger would each spend the whole budget."""
    with opened(tmp_path / "l", epsilon=1.0) as ledger:
        ledger.debit("train", IDS, HALF, seq=0, nonce=nonce(0))
    (tmp_path / "moved").mkdir()
    (tmp_path / "l").rename(tmp_path / "moved" / "l")
    opened(tmp_path / "moved" / "l", epsilon=1.0, existing=True).close()  # a moved file is the same file
    shutil.copy2(tmp_path / "moved" / "l", tmp_path / "copy")
    with pytest.raises(PrivacyError, match=r"is a copy .* --take-over"):
        opened(tmp_path / "copy", epsilon=1.0, existing=True)
    assert read_balance(tmp_path / "copy") == read_balance(tmp_path / "moved" / "l"), "it may still be read"
    take_over(tmp_path / "copy")
    with opened(tmp_path / "copy", epsilon=1.0, existing=True) as ledger:
        assert ledger.debit("train", IDS, HALF, seq=1, nonce=nonce(1))
    opened(tmp_path / "moved" / "l", epsilon=1.0, existing=True).close()
    with pytest.raises(PrivacyError, match="there is no ledger"):
        take_over(tmp_path / "none")
    with closing(sqlite3.connect(tmp_path / "copy", isolation_level=None)) as db:
        db.execute("UPDATE facts SET value = '99' WHERE name = 'schema'")
    with pytest.raises(PrivacyError, match="version 99"):
        take_over(tmp_path / "copy")


def test_an_older_ledger_that_is_written_into_the_file_is_refused(tmp_path):
    """Its place is the same, so only the note beside the content says that frames are missing."""
    path, old = tmp_path / "l", tmp_path / "old"
    try:
        os.setxattr(tmp_path, "user.test", b"1")
    except (OSError, AttributeError):
        pytest.skip("this file system keeps no extended attributes")
    opened(path, epsilon=1.0).close()
    empty = path.read_bytes()
    with opened(path, epsilon=1.0) as ledger:
        ledger.debit("infer", IDS, HALF, seq=-1, nonce=nonce(0))
    shutil.copyfile(path, old)
    with opened(path, epsilon=1.0, existing=True) as ledger:
        ledger.debit("infer", IDS, HALF, seq=-2, nonce=nonce(1))
    opened(path, epsilon=1.0, existing=True).close()
    newest = path.read_bytes()
    for bytes_of_before in (old.read_bytes(), empty):
        path.write_bytes(bytes_of_before)
        assert frames_noted(path) == 2
        with pytest.raises(PrivacyError, match=r"holds [01] frames, and it held 2"):
            opened(path, epsilon=1.0, existing=True)
    path.write_bytes(newest)
    opened(path, epsilon=1.0, existing=True).close()
    path.write_bytes(old.read_bytes())
    with pytest.raises(PrivacyError, match="holds 1 frames, and it held 2"):
        take_over(path)  # it is known that more was released
    assert frames_noted(path) == 2


def test_a_copy_of_an_empty_ledger_is_refused_where_the_run_has_begun(tmp_path):
    """The other one may have spent the budget since it was copied."""
    opened(tmp_path / "l", epsilon=1.0).close()
    shutil.copyfile(tmp_path / "l", tmp_path / "copy")
    with pytest.raises(PrivacyError, match=r"is a copy .* --take-over"):
        opened(tmp_path / "copy", epsilon=1.0, existing=True)
    opened(tmp_path / "copy", run="another", epsilon=1.0).close()  # a run that begins has released nothing


def test_a_ledger_to_which_another_process_adds_meanwhile_has_lost_nothing(tmp_path, monkeypatch):
    """The frames are counted as of one moment, and the note may be of a later one."""
    with opened(tmp_path / "l") as first:
        first.debit("infer", IDS, HALF, seq=-1, nonce=nonce(0))
        facts_of = module.facts_of

        def busy(db):
            facts = facts_of(db)
            first.debit("infer", IDS, HALF, seq=-2, nonce=nonce(1))
            return facts

        monkeypatch.setattr("smartedge.privacy.ledger.facts_of", busy)
        opened(tmp_path / "l", existing=True).close()
        assert frames_noted(tmp_path / "l") == 2


def test_a_release_that_the_disk_did_not_take_is_not_noted(tmp_path):
    """Else the ledger would seem to have lost a frame, and would never open again."""
    path = tmp_path / "l"
    with opened(path) as ledger:
        ledger.debit("train", IDS, HALF, seq=0, nonce=nonce(0))
        noted = frames_noted(path)
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("CREATE TRIGGER full BEFORE UPDATE ON facts BEGIN SELECT RAISE(ABORT, 'disk full'); END")
        with pytest.raises(PrivacyError, match="disk full"):
            ledger.debit("train", IDS, HALF, seq=1, nonce=nonce(1), label_event=HALF)
        assert frames_noted(path) == noted and not ledger.holds(2)


@pytest.mark.parametrize("copy", [shutil.copyfile, shutil.copy2], ids=["plain", "with attributes"])
def test_an_older_ledger_in_the_place_of_the_removed_one_is_refused(tmp_path, copy):
    """As a backup is put back. ext4 gives the new file the inode number of the removed one."""
    path, old = tmp_path / "l", tmp_path / "old"
    with opened(path, epsilon=1.0) as ledger:
        ledger.debit("infer", IDS, HALF, seq=-1, nonce=nonce(0))
    copy(path, old)
    for _ in range(20):
        before = path.stat().st_ino
        path.unlink()
        copy(old, path)
        if path.stat().st_ino == before:
            break
    else:
        pytest.skip("this file system uses no inode number again")
    with pytest.raises(PrivacyError, match=r"or was put back from one.*--take-over"):
        opened(path, epsilon=1.0, existing=True)


def test_where_files_have_no_generation_the_place_is_the_inode(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.touch()
    here = place_of(path)
    monkeypatch.setattr("fcntl.ioctl", _unsupported)
    (tmp_path / "another").touch()
    assert place_of(path) == place_of(path) != place_of(tmp_path / "another")
    path.rename(tmp_path / "moved")
    monkeypatch.undo()
    assert place_of(tmp_path / "moved") == here, "a moved file is the same file"


def test_where_nothing_is_noted_a_ledger_opens(tmp_path, monkeypatch):
    """Some file systems keep no extended attributes, and some systems have no call for them."""
    monkeypatch.setattr("smartedge.privacy.place.os.setxattr", _unsupported, raising=False)
    monkeypatch.setattr("smartedge.privacy.place.os.getxattr", _unsupported, raising=False)
    with opened(tmp_path / "l") as ledger:
        assert ledger.debit("train", IDS, GAUSS, seq=0, nonce=nonce(0))
    opened(tmp_path / "l", existing=True).close()


def _unsupported(*arguments: object) -> bytes:
    raise OSError(95, "Operation not supported")


def test_a_ledger_without_a_place_is_one_of_before(tmp_path):
    with opened(tmp_path / "l") as ledger:
        ledger.debit("train", IDS, HALF, seq=0, nonce=nonce(0))
    db = sqlite3.connect(tmp_path / "l", isolation_level=None)
    db.execute("DELETE FROM facts WHERE name IN ('place', 'checksum')")
    db.execute("UPDATE facts SET value = '2' WHERE name = 'schema'")
    db.close()
    for _ in range(2):  # the first time it gets a checksum, which the second one compares
        with opened(tmp_path / "l", epsilon=math.inf, existing=True) as ledger:
            assert ledger.releases("train") == 1


def test_a_ledger_of_an_earlier_version_is_read_but_not_spent_from(tmp_path):
    """The noise that belongs to a nonce was another one, so that a repeated frame would be a second release."""
    with opened(tmp_path / "l") as ledger:
        ledger.debit("train", IDS, GAUSS, seq=0, nonce=nonce(0))
    db = sqlite3.connect(tmp_path / "l", isolation_level=None)
    db.execute("UPDATE facts SET value = '1' WHERE name = 'schema'")
    db.execute("DROP TABLE repeatable")
    db.close()
    assert read_balance(tmp_path / "l").worst("train").releases == 1
    with pytest.raises(PrivacyError, match="earlier version"):
        opened(tmp_path / "l", existing=True)


def test_another_machine_is_another_place(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    here = place_of(tmp_path / "file")
    assert here == place_of(tmp_path / "file")
    (tmp_path / "id").write_text("0123456789abcdef\n")
    monkeypatch.setattr("smartedge.privacy.place._MACHINE_IDS", (tmp_path / "none", tmp_path / "id"))
    there = place_of(tmp_path / "file")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff")
    names = (tmp_path / "empty", tmp_path / "binary", tmp_path / "id")
    monkeypatch.setattr("smartedge.privacy.place._MACHINE_IDS", names)
    assert there == place_of(tmp_path / "file") and len(there) == 32, "files that say nothing are passed over"
    monkeypatch.setattr("smartedge.privacy.place._MACHINE_IDS", ())
    assert len({here, there, place_of(tmp_path / "file")}) == 3


def test_the_same_number_in_another_split_is_another_image(tmp_path):
    with opened(tmp_path / "l", epsilon=0.5) as ledger:
        for seq, split in enumerate(("val", "train", "infer", "test")):
            assert ledger.debit(split, IDS, HALF, seq=seq, nonce=nonce(seq))


def test_an_image_twice_in_a_batch_is_two_releases(tmp_path):
    with opened(tmp_path / "l", epsilon=1.0) as ledger:
        ledger.debit("infer", np.array([7, 7]), HALF, seq=0, nonce=nonce(0))
        assert ledger.releases("infer") == 2
        with pytest.raises(PrivacyError, match="image 7"):
            ledger.debit("infer", np.array([7]), HALF, seq=1, nonce=nonce(1))
        with pytest.raises(PrivacyError, match="image 8"):
            ledger.debit("infer", np.array([8, 8, 8]), HALF, seq=2, nonce=nonce(2))


def test_the_same_release_again_is_not_debited_and_another_under_the_same_number_is(tmp_path):
    with opened(tmp_path / "l") as ledger:
        assert ledger.debit("train", IDS, HALF, seq=0, nonce=nonce(0))
        assert not ledger.debit("train", IDS, HALF, seq=0, nonce=nonce(0))
        assert ledger.releases("train") == 1
        assert ledger.debit("train", IDS, HALF, seq=0, nonce=nonce(1))
        assert ledger.releases("train") == 2
    with opened(tmp_path / "l", existing=True) as ledger:
        assert not ledger.debit("train", IDS, HALF, seq=0, nonce=nonce(1)), "after a restart too"


def test_a_batch_is_refused_as_a_whole_where_one_image_would_exceed_its_budget(tmp_path):
    path = tmp_path / "l"
    with opened(path, epsilon=1.0) as ledger:
        ledger.debit("train", IDS, HALF, seq=0, nonce=nonce(0))
        ledger.debit("train", np.array([2]), HALF, seq=1, nonce=nonce(1))
        with pytest.raises(
            PrivacyError, match=r"image 2 of split 'train' has spent ε = 0\.9998 in 2 .* 1\.499, .* budget is 1 "
        ):
            ledger.debit("train", IDS, HALF, seq=2, nonce=nonce(2), label_event=HALF)
        assert sum(group.images * group.releases for group in ledger.balance().groups) == 5, "nothing was recorded"
        assert all(group.label_epsilon == 0 for group in ledger.balance().groups)
        assert ledger.debit("train", np.array([0, 1, 3]), HALF, seq=2, nonce=nonce(2))
        assert ledger.debit("val", np.array([2]), HALF, seq=3, nonce=nonce(3)), "another split's image 2"
        assert not ledger.debit("train", IDS, HALF, seq=0, nonce=nonce(0)), "a repeat costs nothing"


@pytest.mark.parametrize("image", [0, 499, 500, 999, 1000, 1200])
def test_the_budget_of_every_image_of_a_large_batch_is_looked_at(tmp_path, image):
    """The ledger asks for 500 images at a time. Here the last part is a short one."""
    with opened(tmp_path / "l", epsilon=0.5) as ledger:
        ledger.debit("train", np.array([image]), HALF, seq=0, nonce=nonce(0))
        with pytest.raises(PrivacyError, match=f"image {image} of"):
            ledger.debit("train", np.arange(1201), HALF, seq=1, nonce=nonce(1))


def test_a_budget_may_be_spent_to_its_last_digit_and_no_further(tmp_path):
    for number, (epsilon, fits) in enumerate([(0.5, True), (0.5 * (1 - 1e-8), False)]):
        with opened(tmp_path / f"{number}", epsilon=epsilon) as ledger:
            if fits:
                assert ledger.debit("train", IDS, HALF, seq=0, nonce=nonce(0))
            else:
                with pytest.raises(PrivacyError, match="image 0"):
                    ledger.debit("train", IDS, HALF, seq=0, nonce=nonce(0))


def test_the_budget_of_k_gaussian_releases_allows_k(tmp_path):
    from smartedge.privacy.mechanisms import make_mechanism

    mechanism = make_mechanism("gaussian", feature_shape=(3,), bottleneck=True, epsilon=2.0, releases=7)
    with opened(tmp_path / "l", epsilon=2.0) as ledger:
        for seq in range(7):
            ledger.debit("train", IDS, mechanism.event, seq=seq, nonce=nonce(seq))
        assert ledger.balance().worst().epsilon == pytest.approx(2.0, rel=1e-6)
        with pytest.raises(PrivacyError, match="in 7 releases"):
            ledger.debit("train", IDS, mechanism.event, seq=7, nonce=nonce(7))


def test_unprotected_releases_count_and_need_an_exemption_from_a_budget(tmp_path):
    with opened(tmp_path / "a") as ledger:
        ledger.debit("train", IDS, NOTHING, seq=0, nonce=nonce(0))
        assert ledger.balance().worst().epsilon == math.inf
    with opened(tmp_path / "b", epsilon=1.0) as ledger:
        with pytest.raises(PrivacyError, match="image 0"):
            ledger.debit("val", IDS, NOTHING, seq=0, nonce=nonce(0))
        ledger.debit("val", IDS, NOTHING, seq=0, nonce=nonce(0), exempt=True)
        assert ledger.releases("val") == 1


def test_an_event_that_cannot_be_accounted_for_is_refused_before_anything_changes(tmp_path):
    with opened(tmp_path / "l") as ledger:
        with pytest.raises(PrivacyError, match="'exponential'"):
            ledger.debit("train", IDS, ReleaseEvent("exponential", 1.0), seq=0, nonce=nonce(0))
        assert ledger.balance().groups == ()
        assert ledger._db.execute("SELECT count(*) FROM events").fetchone() == (0,)


def test_a_labels_release_is_recorded_once(tmp_path):
    label = ReleaseEvent("randomised-response", 0.75, codewords=2)
    with opened(tmp_path / "l") as ledger:
        for seq in range(3):
            ledger.debit("train", IDS, HALF, seq=seq, nonce=nonce(seq), label_event=label)
        assert [group.label_epsilon for group in ledger.balance().groups] == [0.75]


def test_another_runs_or_another_policys_ledger_is_refused(tmp_path):
    path = tmp_path / "l"
    opened(path, run="first").close()
    with opened(path, run="second") as ledger:  # nothing was released for the first
        ledger.debit("train", IDS, HALF, seq=0, nonce=nonce(0))
    with pytest.raises(PrivacyError, match="another run"):
        opened(path, run="first", existing=True)
    with pytest.raises(PrivacyError, match="other settings"):
        opened(path, run="second", policy={"mechanism": "weaker"}, existing=True)
    with opened(path, run=None, existing=True) as ledger:
        assert ledger.balance().run == "second"


def test_a_ledger_that_nothing_was_recorded_in_keeps_the_name_of_its_run(tmp_path):
    opened(tmp_path / "l", run="first").close()
    opened(tmp_path / "l", run=None).close()
    assert read_balance(tmp_path / "l").run == "first"


def test_it_holds_the_frames_up_to_the_last_that_was_recorded(tmp_path):
    with opened(tmp_path / "l") as ledger:
        assert ledger.holds(0) and not ledger.holds(1)
        ledger.debit("train", IDS, HALF, seq=0, nonce=nonce(0))
        assert ledger.holds(0) and ledger.holds(1) and not ledger.holds(2)


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_it_is_its_owners_alone_wherever_it_lies(tmp_path):
    path = tmp_path / "run?1#2" / "edge" / "ledger.sqlite"  # SQLite reads a path as a URI
    with opened(path) as ledger:
        ledger.debit("train", IDS, HALF, seq=0, nonce=nonce(0))
        assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}
    assert read_balance(path).worst("train").releases == 1


@pytest.mark.parametrize("other", [Budget(2.0, 1e-5), Budget(math.inf, 1e-5), Budget(1.0, 0.5), Budget(0.5, 1e-5)])
def test_the_budget_that_a_ledger_began_with_is_the_one_that_counts(tmp_path, other):
    """A changed config.yaml gives no image a second budget, nor the same one at a weaker delta."""
    began = Budget(1.0, 1e-5)
    with opened(tmp_path / "l", epsilon=1.0) as ledger:
        ledger.debit("infer", IDS, HALF, seq=-1, nonce=nonce(0))
    names = ", ".join(name for name in ("delta", "epsilon") if getattr(other, name) != getattr(began, name))
    with pytest.raises(PrivacyError, match=rf"began to release with other settings of model and dp \({names}\)"):
        Ledger(tmp_path / "l", "run", policy=POLICY, budget=other, existing=True)


@pytest.mark.parametrize(
    ("epsilon", "delta"), [(math.nan, 1e-5), (-1.0, 1e-5), (0.0, 1e-5), (1.0, 0.0), (1.0, 1.0), (1.0, math.nan)]
)
def test_a_budget_that_bounds_nothing_opens_no_ledger(tmp_path, epsilon, delta):
    with pytest.raises(PrivacyError, match="bounds nothing"):
        Ledger(tmp_path / "l", "run", policy=POLICY, budget=Budget(epsilon, delta), existing=False)
    assert not (tmp_path / "l").exists()


@pytest.mark.parametrize("other", [{"epsilon": 1.0}, {"policy": {"mechanism": "weaker"}}], ids=["budget", "policy"])
def test_two_processes_that_open_an_empty_ledger_with_other_settings_do_not_both_release(tmp_path, other):
    """Each would look at its own budget, and record its releases beside those of the other."""
    with opened(tmp_path / "l", epsilon=2.0) as first, opened(tmp_path / "l", **{"epsilon": 2.0, **other}) as second:
        with pytest.raises(PrivacyError, match="another process opened this ledger with other settings"):
            first.debit("train", IDS, HALF, seq=0, nonce=nonce(0))
        assert first.balance().groups == ()
        assert second.debit("train", IDS, HALF, seq=0, nonce=nonce(0))
        with pytest.raises(PrivacyError, match="other settings"):
            first.debit("train", IDS, HALF, seq=1, nonce=nonce(1))
        assert second.debit("train", IDS, HALF, seq=1, nonce=nonce(1))


def test_two_processes_with_the_same_settings_share_a_ledger_from_its_first_frame_on(tmp_path):
    with opened(tmp_path / "l", epsilon=1.0) as first, opened(tmp_path / "l", epsilon=1.0) as second:
        assert first.debit("train", IDS, HALF, seq=0, nonce=nonce(0))
        assert second.debit("train", IDS, HALF, seq=1, nonce=nonce(1))
        with pytest.raises(PrivacyError, match="its budget is 1"):
            first.debit("train", IDS, HALF, seq=2, nonce=nonce(2))


def test_each_image_of_a_batch_needs_its_nonce(tmp_path):
    """An image without one would be released and not debited."""
    with opened(tmp_path / "l", epsilon=1.0) as ledger:
        with pytest.raises(ValueError, match="need as many nonces"):
            ledger.debit("infer", IDS, HALF, seq=-1, nonce=nonce(0), image_nonces=[nonce(1)])
        assert ledger.balance().groups == ()


def test_a_start_that_breaks_off_before_its_check_leaves_a_ledger_that_can_be_read(tmp_path, monkeypatch):
    def break_off(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Ledger, "_check", break_off)
    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path / "l", run="first", epsilon=1.0)
    assert read_balance(tmp_path / "l") == Balance("first", POLICY, Budget(1.0, 1e-5), ())


@pytest.mark.parametrize("epsilon", [1.5, math.inf])
def test_a_balance_states_the_budget_and_gives_the_splits_in_their_order(tmp_path, epsilon):
    with opened(tmp_path / "l", epsilon=epsilon) as ledger:
        for seq, split in enumerate(["infer", "test", "val", "train"]):
            ledger.debit(split, IDS, HALF, seq=seq, nonce=nonce(seq))
    found = read_balance(tmp_path / "l")
    assert found.budget == Budget(epsilon, 1e-5)
    assert found.splits == ("train", "val", "test", "infer")


def test_one_pure_release_is_debited_without_dp_accounting(tmp_path, monkeypatch):
    """Its cost is its own ε. Only several releases of one image need the library."""
    monkeypatch.setitem(sys.modules, "dp_accounting.pld", None)
    event = ReleaseEvent("laplace", 0.4567)  # of no other test, since costs are kept in a cache
    for epsilon in (1.0, math.inf):
        with opened(tmp_path / f"{epsilon}", epsilon=epsilon) as ledger:
            assert ledger.debit("train", IDS, event, seq=0, nonce=nonce(0))
    with pytest.raises(ConfigError, match=r"run: .*pip install .*\[privacy\]"):
        composed_epsilon({event: 2}, 1e-5)


def test_without_a_budget_nothing_is_summed_up_before_a_release(tmp_path, monkeypatch):
    """A noise given by its σ has no budget to keep. Such a run needs no dp-accounting, however often it releases."""
    monkeypatch.setitem(sys.modules, "dp_accounting.pld", None)
    event = ReleaseEvent("laplace", 0.5678)  # of no other test, since costs are kept in a cache
    with opened(tmp_path / "l") as ledger:
        assert all(ledger.debit("train", IDS, event, seq=seq, nonce=nonce(seq)) for seq in range(3))
        assert ledger.releases("train") == 3


def test_it_is_opened_on_one_thread_and_debited_on_the_one_that_sends(tmp_path):
    with opened(tmp_path / "l") as ledger:
        with ThreadPoolExecutor(1) as sending:
            assert sending.submit(ledger.debit, "train", IDS, HALF, seq=0, nonce=nonce(0)).result(timeout=30)
        assert ledger.releases("train") == 1


def test_a_missing_ledger_is_not_replaced_by_an_empty_one(tmp_path):
    with pytest.raises(PrivacyError, match="is gone"):
        opened(tmp_path / "l", existing=True)
    assert not (tmp_path / "l").exists()
    with pytest.raises(PrivacyError, match="no ledger"):
        read_balance(tmp_path / "l")
    (tmp_path / "l").touch()  # truncated
    with pytest.raises(PrivacyError, match="cannot be read or written"):
        opened(tmp_path / "l", existing=True)


@pytest.mark.parametrize("where", ["header", "middle"])
def test_a_damaged_ledger_is_refused(tmp_path, where):
    path = tmp_path / "l"
    with opened(path) as ledger:
        for seq in range(40):
            ledger.debit("train", np.arange(64), HALF, seq=seq, nonce=nonce(seq))
    content = bytearray(path.read_bytes())
    start = 0 if where == "header" else len(content) // 2
    content[start : start + 4096] = np.random.default_rng(0).bytes(4096)
    path.write_bytes(content)
    with pytest.raises(PrivacyError, match="nothing is released"):
        opened(path, existing=True)


def full_ledger(path: Path) -> None:
    """Rows in every table, of two splits."""
    with opened(path, epsilon=9.0) as ledger:
        for seq in range(3):
            ledger.debit("train", IDS + 7 * (seq % 2), GAUSS, seq=seq, nonce=nonce(seq), label_event=HALF)
        ids = np.array([2**62 + 5, 2**40])
        ledger.debit("infer", ids, HALF, seq=-9, nonce=nonce(3), image_nonces=[nonce(4), nonce(5)])


def test_a_bit_that_turned_on_the_disk_changes_nothing_or_is_noticed(tmp_path):
    """SQLite has no checksums: an image with another number, or an event with more noise, would be one more release."""
    path = tmp_path / "l"
    full_ledger(path)
    whole, content = read_balance(path), bytearray(path.read_bytes())
    nonces = sqlite3.connect(path).execute("SELECT nonce FROM repeatable").fetchall()
    used = [place for place, byte in enumerate(content) if byte]
    refused = 0
    for place in np.random.default_rng(0).choice(used, 400, replace=False).tolist():
        bit = 1 << place % 8
        content[place] ^= bit
        path.write_bytes(content)
        content[place] ^= bit
        try:
            with opened(path, epsilon=9.0, existing=True) as ledger:
                assert ledger.balance() == whole, f"byte {place}, bit {bit}"
                assert ledger._db.execute("SELECT nonce FROM repeatable").fetchall() == nonces
        except PrivacyError:
            refused += 1
    assert refused > 200


@pytest.mark.parametrize("table", ["releases", "labels", "events", "frames", "repeatable", "facts"])
def test_a_row_that_is_gone_is_noticed(tmp_path, table):
    path = tmp_path / "l"
    full_ledger(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        key = {"events": "event", "frames": "frame", "repeatable": "nonce", "facts": "name"}.get(table, "image")
        condition = "= 'run'" if table == "facts" else f"IN (SELECT {key} FROM {table} LIMIT 1)"
        assert db.execute(f"DELETE FROM {table} WHERE {key} {condition}").rowcount
    for read in (lambda: opened(path, epsilon=9.0, existing=True), lambda: read_balance(path)):
        with pytest.raises(PrivacyError, match="checksum is wrong"):
            read()


def test_a_copy_that_is_taken_over_keeps_a_right_checksum(tmp_path):
    full_ledger(tmp_path / "l")
    shutil.copy(tmp_path / "l", tmp_path / "copy")
    take_over(tmp_path / "copy")
    opened(tmp_path / "copy", epsilon=9.0, existing=True).close()


def test_a_copy_that_is_taken_over_is_known_to_hold_its_frames(tmp_path):
    """Else a still older one could be written into it."""
    full_ledger(tmp_path / "l")
    noted = frames_noted(tmp_path / "l")
    shutil.copyfile(tmp_path / "l", tmp_path / "copy")
    assert frames_noted(tmp_path / "copy") == 0, "a plain copy leaves the note alone"
    take_over(tmp_path / "copy")
    assert frames_noted(tmp_path / "copy") == noted


def test_a_file_with_two_names_is_refused(tmp_path):
    """SQLite finds the newest rows by the file's name, so that each name would spend the whole budget."""
    (tmp_path / "other").mkdir()
    with opened(tmp_path / "l", epsilon=1.0) as ledger:
        ledger.debit("train", IDS, HALF, seq=0, nonce=nonce(0))
    os.link(tmp_path / "l", tmp_path / "other" / "l")
    with pytest.raises(PrivacyError, match=r"2 names \(hard links\)"):
        opened(tmp_path / "other" / "l", epsilon=1.0, existing=True)
    (tmp_path / "other" / "l").unlink()
    opened(tmp_path / "l", epsilon=1.0, existing=True).close()


_OPEN_AND_CLOSE = """
import math, sys
from pathlib import Path
from smartedge.privacy.balance import Budget
from smartedge.privacy.ledger import Ledger
policy, budget = {"mechanism": "test"}, Budget(math.inf, 1e-5)
with Ledger(Path(sys.argv[1]), "run", policy=policy, budget=budget, existing=True) as ledger:
    print(ledger.releases("train"))
"""


@pytest.mark.parametrize("ending", ["", "-wal", "-shm"])
@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_is_removed_or_replaced_while_it_is_open_is_noticed(tmp_path, ending, replaced):
    file = tmp_path / f"l{ending}"
    with opened(tmp_path / "l") as ledger:
        ledger.debit("train", IDS, HALF, seq=0, nonce=nonce(0))
        copy = file.read_bytes()
        file.rename(tmp_path / "gone")
        if replaced:
            file.write_bytes(copy)
        with pytest.raises(PrivacyError, match="was removed or replaced while the ledger is open"):
            ledger.debit("train", IDS, HALF, seq=1, nonce=nonce(1))
        if not replaced:
            (tmp_path / "gone").rename(file)
            assert ledger.debit("train", IDS, HALF, seq=1, nonce=nonce(1))
            assert ledger.releases("train") == 2


@pytest.mark.parametrize("twice", [False, True])
def test_another_process_that_opens_and_closes_it_does_not_take_its_file_away(tmp_path, twice):
    """A process loses its locks on a file when it closes the file once, and the other one deleted the -wal file then.

    Debits went into the deleted file: no other process saw them, and a killed one took them along.
    """
    path = tmp_path / "l"
    with opened(path) as ledger:
        ledger.debit("train", IDS, HALF, seq=0, nonce=nonce(0))
        if twice:  # in this process as well
            opened(path, existing=True).close()
            assert place_of(path)
        subprocess.run([sys.executable, "-c", _OPEN_AND_CLOSE, str(path)], check=True)
        ledger.debit("train", IDS, HALF, seq=1, nonce=nonce(1))
        seen = subprocess.run(
            [sys.executable, "-c", _OPEN_AND_CLOSE, str(path)], check=True, capture_output=True, text=True
        )
        assert seen.stdout.split() == ["2"]


def test_a_file_that_is_no_ledger_or_of_a_later_version_is_refused(tmp_path):
    path = tmp_path / "l"
    with opened(path) as ledger:
        ledger._db.execute("UPDATE facts SET value = '99' WHERE name = 'schema'")
    for existing in (False, True):
        with pytest.raises(PrivacyError, match="version 99"):
            opened(path, existing=existing)
    with pytest.raises(PrivacyError, match="nothing is released"):
        opened(tmp_path)  # a folder


def test_a_ledger_that_cannot_be_written_stops_the_release(tmp_path):
    with opened(tmp_path / "l") as ledger:
        ledger._db.execute("PRAGMA query_only=ON")
        with pytest.raises(PrivacyError, match="cannot be read or written"):
            ledger.debit("train", IDS, HALF, seq=0, nonce=nonce(0))
        ledger._db.execute("PRAGMA query_only=OFF")
        assert ledger.debit("train", IDS, HALF, seq=0, nonce=nonce(0))


def test_a_debit_that_fails_half_way_leaves_nothing(tmp_path, monkeypatch):
    with opened(tmp_path / "l") as ledger:
        number = ledger._number

        def fail_at_labels(event: ReleaseEvent) -> int:
            if event == NOTHING:
                raise sqlite3.OperationalError("disk full")
            return number(event)

        monkeypatch.setattr(ledger, "_number", fail_at_labels)
        with pytest.raises(PrivacyError, match="disk full"):
            ledger.debit("train", IDS, HALF, seq=0, nonce=nonce(0), label_event=NOTHING)
        assert ledger.releases("train") == 0
        monkeypatch.undo()
        assert ledger.debit("train", IDS, HALF, seq=0, nonce=nonce(0), label_event=NOTHING)


def test_it_waits_for_the_disk(tmp_path, monkeypatch):
    """SQLite's own numbers: synchronous 2 is FULL."""
    monkeypatch.setattr(sqlite3, "connect", unsynced.connect)
    with opened(tmp_path / "l") as ledger:
        assert ledger._db.execute("PRAGMA synchronous").fetchone() == (2,)
        assert ledger._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert ledger._db.execute("PRAGMA foreign_keys").fetchone() == (1,), "no row without its frame and event"


def test_it_waits_for_another_process_that_writes_at_the_moment(tmp_path):
    opened(tmp_path / "l").close()
    with closing(sqlite3.connect(tmp_path / "l", isolation_level=None)) as other, ThreadPoolExecutor(1) as pool:
        other.execute("BEGIN IMMEDIATE")
        opening = pool.submit(lambda: opened(tmp_path / "l", existing=True).close())
        wait([opening], timeout=0.1)
        assert not opening.done()
        other.execute("COMMIT")
        opening.result(timeout=60)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="looks at descriptors as Linux shows them")
def test_a_ledger_that_is_refused_is_not_held_open(tmp_path):
    with opened(tmp_path / "l", run="first") as ledger:
        ledger.debit("train", IDS, HALF, seq=0, nonce=nonce(0))
    with pytest.raises(PrivacyError, match="another run") as caught:
        opened(tmp_path / "l", run="second", existing=True)
    held = {os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")}
    assert caught.value and str(tmp_path / "l") not in held


def test_reading_changes_nothing_and_sees_one_moment(tmp_path, monkeypatch):
    """As of a run that was killed: what it wrote last is in the file beside the ledger."""
    (tmp_path / "killed").mkdir()
    with opened(tmp_path / "l") as ledger:
        ledger.debit("train", IDS, HALF, seq=0, nonce=nonce(0))
        for name in ("l", "l-wal"):
            shutil.copyfile(tmp_path / name, tmp_path / "killed" / name)
        before = {name: (tmp_path / "killed" / name).read_bytes() for name in ("l", "l-wal")}
        assert before["l-wal"] and read_balance(tmp_path / "killed" / "l").worst().releases == 1
        assert {name: (tmp_path / "killed" / name).read_bytes() for name in before} == before
        facts_of = module.facts_of

        def written_meanwhile(db: sqlite3.Connection) -> dict[str, object]:
            found = facts_of(db)
            ledger.debit("train", IDS, GAUSS, seq=1, nonce=nonce(1))
            return found

        monkeypatch.setattr(module, "facts_of", written_meanwhile)
        assert read_balance(tmp_path / "l").worst().releases == 1
        monkeypatch.undo()
        assert read_balance(tmp_path / "l").worst().releases == 2


def test_of_equal_costs_the_one_with_more_releases_is_the_worst_and_stands_last(tmp_path):
    with opened(tmp_path / "l") as ledger:
        for seq, (image, label) in enumerate([(0, HALF), (0, GAUSS), (1, None)]):
            ledger.debit("train", np.array([image]), NOTHING, seq=seq, nonce=nonce(seq), label_event=label)
        found = ledger.balance()
    assert [(group.example, group.releases) for group in found.groups] == [(1, 1), (0, 2)]
    assert found.worst().example == 0
    assert [group.label_epsilon for group in found.groups] == [0.0, 1.5], "labels that were randomised twice add up"


def test_the_worst_image_of_a_split_is_of_that_split(tmp_path):
    with opened(tmp_path / "l") as ledger:
        for seq, split in enumerate(("train", "train", "val", "infer", "infer", "infer")):
            ledger.debit(split, IDS, HALF, seq=seq, nonce=nonce(seq))
        found = ledger.balance()
    assert [found.worst(split).releases for split in ("train", "val")] == [2, 1]
    assert found.worst("test") is None and found.worst().split == "infer"


def test_one_release_with_less_noise_is_worse_than_two_with_more(tmp_path):
    weak = ReleaseEvent("randomised-response", 4.0, codewords=8)
    with opened(tmp_path / "l") as ledger:
        for seq, (image, event) in enumerate([(0, HALF), (0, HALF), (1, weak)]):
            ledger.debit("train", np.array([image]), event, seq=seq, nonce=nonce(seq))
        assert ledger.balance().worst().example == 1


def test_it_can_be_read_while_a_run_writes(tmp_path):
    path = tmp_path / "l"
    with opened(path) as ledger:
        ledger.debit("train", IDS, HALF, seq=0, nonce=nonce(0))
        ledger._db.execute("BEGIN IMMEDIATE")
        assert read_balance(path).worst().releases == 1
        ledger._db.execute("COMMIT")


WRITER = """
import math, sys
from pathlib import Path
import numpy as np
from smartedge.privacy.balance import Budget
from smartedge.privacy.ledger import Ledger
from smartedge.types import ReleaseEvent
event = ReleaseEvent("randomised-response", 0.5, codewords=8)
ledger = Ledger(Path(sys.argv[1]), "run", policy={}, budget=Budget(math.inf, 1e-5), existing=False)
for seq in range(10**6):
    ledger.debit("train", np.arange(50), event, seq=seq, nonce=seq.to_bytes(16, "big"))
    print(seq, flush=True)
"""


def test_a_killed_writer_leaves_every_debit_it_reported_and_no_half_one(tmp_path):
    path = tmp_path / "l"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    reported = -1
    for line in writer.stdout:
        reported = int(line)
        if reported == 30:
            os.kill(writer.pid, signal.SIGKILL)
            break
    reported = max([reported, *(int(line) for line in writer.stdout.read().split())])
    writer.stdout.close()
    assert writer.wait(timeout=30) == -signal.SIGKILL
    with Ledger(path, "run", policy={}, budget=Budget(math.inf, 1e-5), existing=True) as ledger:
        frames = ledger._db.execute("SELECT max(seq), count(*) FROM frames").fetchone()
        assert reported <= frames[0] <= reported + 1, "the one at work when it was killed is there, or is not"
        assert frames[1] == frames[0] + 1
        (group,) = ledger.balance().groups
        assert (group.images, group.releases) == (50, frames[1]), "no image has more rows than another"
        assert not ledger.debit("train", np.arange(50), HALF, seq=3, nonce=nonce(3))


def test_many_images_with_one_history_are_accounted_for_once(tmp_path, monkeypatch):
    asked = []
    real = composed_epsilon
    monkeypatch.setattr(module, "composed_epsilon", lambda history, delta: asked.append(1) or real(history, delta))
    with opened(tmp_path / "l") as ledger:
        ledger.debit("train", np.arange(1000), HALF, seq=0, nonce=nonce(0))
        asked.clear()
        assert len(ledger.balance().groups) == 1
    assert len(asked) == 1

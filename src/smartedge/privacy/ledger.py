"""The edge's durable record of every release, and of the budget it spent.

It is one SQLite file with one row per image and release. A batch is debited in one transaction, before any noise for it
is drawn. So after a crash at any moment the ledger holds at least all that was sent. ``synchronous=FULL`` makes SQLite
wait for the disk at every commit. The write-ahead log needs one such wait where a rollback journal needs three or more.
It also lets ``smartedge ledger`` read while a run writes. If anything is wrong with the file, nothing is released.
"""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from smartedge.errors import PrivacyError, list_some
from smartedge.files import PRIVATE
from smartedge.metrics import rounded_up
from smartedge.privacy.accountant import composed_epsilon
from smartedge.privacy.balance import (
    BEFORE_CHECKSUMS,
    ROUNDING,
    SCHEMA,
    Balance,
    Budget,
    balance_of,
    event_of,
    facts_of,
    refusing,
    what_differs,
)
from smartedge.privacy.checksum import CHECKSUM, of_numbers, of_row, seal
from smartedge.privacy.place import OpenFiles, OpenPlace, frames_noted, note_frames, place_of, refuse_fewer_frames
from smartedge.types import ReleaseEvent

__all__ = ["Ledger", "take_over"]

_TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE events (event INTEGER PRIMARY KEY, description TEXT NOT NULL UNIQUE);
CREATE TABLE frames (
    frame INTEGER PRIMARY KEY, split TEXT NOT NULL, seq INTEGER NOT NULL, nonce BLOB NOT NULL,
    event INTEGER NOT NULL REFERENCES events, at REAL NOT NULL, UNIQUE (split, seq, nonce)
);
CREATE TABLE releases (
    split TEXT NOT NULL, image INTEGER NOT NULL, frame INTEGER NOT NULL REFERENCES frames, place INTEGER NOT NULL,
    event INTEGER NOT NULL REFERENCES events, PRIMARY KEY (split, image, frame, place)
) WITHOUT ROWID;
CREATE TABLE labels (
    split TEXT NOT NULL, image INTEGER NOT NULL, event INTEGER NOT NULL REFERENCES events, at REAL NOT NULL,
    PRIMARY KEY (split, image, event)
) WITHOUT ROWID;
CREATE TABLE repeatable (nonce BLOB PRIMARY KEY) WITHOUT ROWID;
"""
_TOGETHER = 500  # images in one query


class Ledger:
    """The ledger of one run, open for debits. Close it, or use it as a context manager.

    Args:
        path: the file; made where there is none yet.
        run: identifies the run; a ledger belongs to one run. None: any run.
        policy: facts that must not change in a run (mechanism, budget, labels), as JSON values.
        budget: the budget of each image.
        existing: the file must be there, since releases were recorded in it.

    Raises:
        PrivacyError: the file is missing, damaged, not writable, belongs to another run or policy, is a copy (two
            copies would each spend the whole budget), or holds less than it did: an older copy was written into it.
    """

    def __init__(
        self, path: Path, run: str | None, *, policy: Mapping[str, object], budget: Budget, existing: bool
    ) -> None:
        if not (budget.epsilon > 0 and 0 < budget.delta < 1):  # NaN fails it
            raise PrivacyError(f"a budget of ε = {budget.epsilon} at δ = {budget.delta} bounds nothing")
        self.path = path
        self.budget = budget
        if existing and not path.exists():
            raise PrivacyError(
                f"{path}: the ledger is gone, so what was released is not known, and nothing is released; restore it "
                "from a copy, or start a new run"
            )
        self._written: dict[str, str] | None = None  # facts of a ledger without frames, which another may change
        with self._guarded():
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.touch(PRIVATE)  # SQLite gives the files beside it the same mode
            self._closing = ExitStack()
            self._place = self._closing.enter_context(closing(OpenPlace(path))).name  # before SQLite opens the file
            # Used by one thread at a time: the one that sends.
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
            self._closing.callback(self._db.close)
        try:
            with self._guarded():
                self._db.execute("PRAGMA synchronous=FULL")
                self._db.execute("PRAGMA foreign_keys=ON")
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("BEGIN IMMEDIATE")
                if not existing and self._db.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
                    for statement in _TABLES.split(";"):
                        self._db.execute(statement)
                    self._write_facts(run or "", policy)
                self._db.execute("COMMIT")
            self._check(run, policy, existing=existing)
            with self._guarded():
                self._files = OpenFiles(path)
        except BaseException:
            self.close()
            raise
        self._events: dict[ReleaseEvent, int] = {}
        self._terms = 0  # of the checksum, for the rows that this transaction adds

    def debit(
        self,
        split: str,
        ids: NDArray[np.int64],
        event: ReleaseEvent,
        *,
        seq: int,
        nonce: bytes,
        image_nonces: Sequence[bytes] | None = None,
        label_event: ReleaseEvent | None = None,
        exempt: bool = False,
    ) -> bool:
        """Record that a batch is about to be released; durable when this returns.

        Args:
            split: of the images.
            ids: int64 (B,), the images.
            event: what the release of one image's features costs.
            seq: the frame's number in the run.
            nonce: stands for ``split``, ``seq`` and the batch's content. The same nonce again is the same release,
                and is not recorded twice.
            image_nonces: one for each image; it stands for the image and its features. The same nonce again, in any
                batch, is the same release and costs nothing. None: every frame is a new release.
            label_event: what the first release of an image's label costs; later ones repeat it and cost nothing.
            exempt: True: the budget does not apply, since the settings leave this split unprotected.

        Returns:
            False where this release was recorded before.

        Raises:
            PrivacyError: an image would exceed its budget, or the ledger cannot be written. Nothing is recorded, and
                nothing may be released.
        """
        if image_nonces is not None and len(image_nonces) != len(ids):
            raise ValueError(f"{len(ids)} images need as many nonces, not {len(image_nonces)}")
        composed_epsilon({event: 1}, self.budget.delta)  # refuses a kind that cannot be accounted for
        with self._transaction():
            self._refuse_other_facts()
            self._files.check()
            known = self._db.execute(
                "SELECT frame FROM frames WHERE split = ? AND seq = ? AND nonce = ?", (split, seq, nonce)
            ).fetchone()
            if known:
                return False
            new = self._not_yet_released(image_nonces, len(ids))
            if not exempt and self.budget.epsilon < math.inf:
                self._check_budget(split, ids[new], event)
            now, number = time.time(), self._number(event)
            frame = self._db.execute(
                "INSERT INTO frames (split, seq, nonce, event, at) VALUES (?, ?, ?, ?, ?)",
                (split, seq, nonce, number, now),
            ).lastrowid
            assert frame is not None
            self._terms += of_row("frames", frame, split, seq, nonce, number)
            self._db.executemany(
                "INSERT INTO releases VALUES (?, ?, ?, ?, ?)",
                [(split, int(ids[place]), frame, place, number) for place in new],
            )
            self._terms += of_numbers("releases", split, (ids[new], frame, np.array(new, dtype=np.int64), number))
            if image_nonces is not None:
                self._db.executemany("INSERT INTO repeatable VALUES (?)", [(image_nonces[place],) for place in new])
                self._terms += sum(of_row("repeatable", image_nonces[place]) for place in new)
            if label_event is not None:
                self._debit_labels(split, ids, self._number(label_event), now)
        self._written = None
        note_frames(self.path, frame)  # after the commit, so it is never more than the file holds
        return True

    def balance(self) -> Balance:
        """The releases so far, and their cost."""
        with self._one_moment():
            return balance_of(self._db)

    def releases(self, split: str) -> int:
        """The largest number of releases of one image."""
        with self._guarded():
            query = "SELECT max(n) FROM (SELECT count(*) AS n FROM releases WHERE split = ? GROUP BY image)"
            return self._db.execute(query, (split,)).fetchone()[0] or 0

    def holds(self, next_seq: int) -> bool:
        """Whether the frame before ``next_seq`` is recorded. It is not where an old copy of the file was put back."""
        with self._guarded():
            last = self._db.execute("SELECT max(seq) FROM frames").fetchone()[0]
        return next_seq == 0 or (last is not None and last >= next_seq - 1)

    def close(self) -> None:
        """Close the file."""
        self._closing.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- inside

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """The library's errors become refusals."""
        with refusing(self.path):
            yield

    @contextmanager
    def _one_moment(self) -> Iterator[None]:
        """Whatever is read inside is of one moment, also while another process writes."""
        with self._guarded():
            self._db.execute("BEGIN")
            try:
                yield
            finally:
                self._db.execute("ROLLBACK")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._guarded():
            self._db.execute("BEGIN IMMEDIATE")
            self._terms = 0
            try:
                yield
                if self._terms:
                    added = "UPDATE facts SET value = CAST(value AS INTEGER) + ? WHERE name = ?"
                    self._db.execute(added, (self._terms, CHECKSUM))
                self._db.execute("COMMIT")
            except BaseException:
                self._events = {}  # a new event is lost with the transaction
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _debit_labels(self, split: str, ids: NDArray[np.int64], number: int, now: float) -> None:
        """Record the labels that were not released before."""
        new = [
            image
            for image in ids.tolist()
            if self._db.execute(
                "INSERT OR IGNORE INTO labels VALUES (?, ?, ?, ?)", (split, image, number, now)
            ).rowcount
        ]
        self._terms += of_numbers("labels", split, (np.array(new, dtype=np.int64), number))

    def _write_facts(self, run: str, policy: Mapping[str, object]) -> None:
        facts = {"schema": SCHEMA, "run": run, "policy": policy, "place": self._place, **self._budget_facts()}
        self._written = {name: json.dumps(value) for name, value in facts.items()}
        self._db.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", list(self._written.items()))
        seal(self._db)

    def _refuse_other_facts(self) -> None:
        """Before the first frame that this process adds to a ledger that it opened empty."""
        facts = self._db.execute("SELECT name, value FROM facts WHERE name != ?", (CHECKSUM,))
        if self._written not in (None, dict(facts)):
            raise PrivacyError(
                f"{self.path}: another process opened this ledger with other settings of model and dp; end one of the "
                "two. Nothing of this batch was sent"
            )

    def _budget_facts(self) -> dict[str, object]:
        epsilon, delta = self.budget.epsilon, self.budget.delta
        return {"epsilon": float(epsilon) if math.isfinite(epsilon) else None, "delta": float(delta)}

    def _check(self, run: str | None, policy: Mapping[str, object], *, existing: bool) -> None:
        noted = frames_noted(self.path)
        with self._one_moment():
            if self._db.execute("PRAGMA quick_check").fetchone() != ("ok",):
                raise sqlite3.DatabaseError("its pages do not fit together")
            facts = facts_of(self._db)
            frames = _frames(self._db)
        if facts["schema"] not in (BEFORE_CHECKSUMS, SCHEMA):
            raise PrivacyError(
                f"{self.path}: was begun by an earlier version of smartedge, whose noise was another one. A frame "
                "that is sent again would be a second release. Start a new run; 'smartedge ledger' still reads this one"
            )
        if (names := self.path.stat().st_nlink) > 1:
            raise PrivacyError(
                f"{self.path}: the file has {names} names (hard links). Who opens it by another name does not see the "
                "newest releases, so nothing is released. Remove the other names"
            )
        refuse_fewer_frames(self.path, frames, noted)
        here = facts.get("place", self._place) == self._place
        if not frames and (here or not existing):  # a start that failed before its first release
            with self._transaction():
                self._write_facts(run or str(facts["run"]), policy)
            return
        if facts["schema"] == BEFORE_CHECKSUMS:
            with self._transaction():
                self._db.execute("UPDATE facts SET value = ? WHERE name = 'schema'", (json.dumps(SCHEMA),))
                seal(self._db)
        if not here:
            raise PrivacyError(
                f"{self.path}: is a copy of a ledger that was begun elsewhere, or was put back from one. The other one "
                "may hold more, or go on spending the same budget, so nothing is released. Where the other one is gone "
                f"for good, and held no more than this one: smartedge ledger {self.path.parent} --take-over"
            )
        if run not in (None, facts["run"]):
            raise PrivacyError(f"{self.path}: is the ledger of another run; choose another run_dir for this one")
        given = {**self._budget_facts(), "policy": json.loads(json.dumps(policy))}
        if differs := what_differs({name: facts[name] for name in given}, given):
            raise PrivacyError(
                f"{self.path}: this run began to release with other settings of model and dp ({list_some(differs)}); "
                "resume it with its own config.yaml and noise.key, or start a new run"
            )

    def _not_yet_released(self, image_nonces: Sequence[bytes] | None, images: int) -> list[int]:
        """The places in the batch of images with a new release."""
        if image_nonces is None:
            return list(range(images))
        first = {nonce: place for place, nonce in reversed(list(enumerate(image_nonces)))}
        known = "SELECT 1 FROM repeatable WHERE nonce = ?"
        return sorted(place for nonce, place in first.items() if not self._db.execute(known, (nonce,)).fetchone())

    def _check_budget(self, split: str, ids: NDArray[np.int64], event: ReleaseEvent) -> None:
        asked = Counter(ids.tolist())
        spent: dict[int, Counter[ReleaseEvent]] = {image: Counter() for image in asked}
        images = list(asked)
        for start in range(0, len(images), _TOGETHER):
            part = images[start : start + _TOGETHER]
            rows = self._db.execute(
                "SELECT image, description, count(*) FROM releases JOIN events USING (event) "
                f"WHERE split = ? AND image IN ({','.join('?' * len(part))}) GROUP BY image, event",
                (split, *part),
            )
            for image, description, count in rows:
                spent[image][event_of(description)] += count
        for image, history in spent.items():
            after = history + Counter({event: asked[image]})
            cost = composed_epsilon(after, self.budget.delta)
            if not cost <= self.budget.epsilon * (1 + ROUNDING):
                before = rounded_up(composed_epsilon(history, self.budget.delta) if history else 0.0, 4)
                raise PrivacyError(
                    f"image {image} of split '{split}' has spent ε = {before:.4g} in {history.total()} releases; with "
                    f"the next one it would be {rounded_up(cost, 4):.4g}, and its budget is {self.budget.epsilon:.4g} "
                    f"(δ = {self.budget.delta:g}). Nothing of this batch was sent. Start a new run with a larger "
                    "dp.epsilon, fewer epochs, or schedule 'freeze-and-log'"
                )

    def _number(self, event: ReleaseEvent) -> int:
        if event not in self._events:
            text = json.dumps(
                {**asdict(event), "epsilon": event.epsilon if math.isfinite(event.epsilon) else None}, sort_keys=True
            )
            inserted = self._db.execute("INSERT OR IGNORE INTO events (description) VALUES (?)", (text,)).rowcount
            row = self._db.execute("SELECT event FROM events WHERE description = ?", (text,)).fetchone()
            self._events[event] = int(row[0])
            if inserted:
                self._terms += of_row("events", self._events[event], text)
        return self._events[event]


def take_over(path: Path) -> None:
    """Let a copy of a ledger spend the budget, because its original is gone for good.

    Raises:
        PrivacyError: there is no ledger, it cannot be read or written, or it holds less than it did.
    """
    if not path.exists():
        raise PrivacyError(f"{path}: there is no ledger; it lies in the run directory, on the edge")
    with refusing(path):
        place = place_of(path)  # before SQLite opens the file
        noted = frames_noted(path)
    with refusing(path), closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as db:
        db.execute("BEGIN IMMEDIATE")
        facts_of(db)
        refuse_fewer_frames(path, _frames(db), noted)
        db.execute("INSERT OR REPLACE INTO facts VALUES ('place', ?)", (json.dumps(place),))
        seal(db)
        db.execute("COMMIT")
        note_frames(path, _frames(db))


def _frames(db: sqlite3.Connection) -> int:
    """How many frames are recorded: they are numbered from 1, and none is ever removed."""
    return int(db.execute("SELECT coalesce(max(frame), 0) FROM frames").fetchone()[0])

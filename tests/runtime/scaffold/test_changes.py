"""Changes of several files: all of them, or none."""

from __future__ import annotations

import os
import signal
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vibetuner.errors import CommandError
from vibetuner.scaffold.changes import Change, apply_changes, diff


def test_everything_is_written(tmp_path: Path):
    """New files, new contents and removals are applied, with folders made and removed."""
    (tmp_path / "tune.py").write_bytes(b"old\r\n")
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "a.py").write_bytes(b"a")
    apply_changes(
        [
            Change(tmp_path / "deep" / "er" / "new.py", None, b"new"),
            Change(tmp_path / "tune.py", b"old\r\n", b"next\r\n"),
            Change(tmp_path / "gone" / "a.py", b"a", None),
        ]
    )

    assert snapshot(tmp_path) == {"deep/er/new.py": b"new", "tune.py": b"next\r\n"}
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("broken", [0, 1, 2, 3])
def test_when_one_can_not_be_written_none_is(tmp_path: Path, broken: int):
    """If one file can't be written, at any place in the list, no file is changed."""
    (tmp_path / "tune.py").write_bytes(b"old")
    (tmp_path / "old.py").write_bytes(b"old")
    (tmp_path / "taken").mkdir()
    changes = [
        Change(tmp_path / "deep" / "new.py", None, b"new"),
        Change(tmp_path / "tune.py", b"old", b"next"),
        Change(tmp_path / "old.py", b"old", None),
    ]
    changes.insert(broken, Change(tmp_path / "taken" / "x" / "y.py", None, b"new"))
    (tmp_path / "taken" / "x").write_bytes(b"a file where a folder should be")
    before = snapshot(tmp_path)
    with pytest.raises(
        CommandError, match=r"taken/x/y\.py can't be written .+ Nothing was changed"
    ):
        apply_changes(changes)

    assert snapshot(tmp_path) == before
    assert not (tmp_path / "deep").exists()


def test_when_the_last_one_fails_the_first_ones_are_undone(tmp_path: Path):
    """If the last change fails, the earlier ones are undone, with the files' modes."""
    (tmp_path / "tune.py").write_bytes(b"old")
    (tmp_path / "tune.py").chmod(0o640)
    (tmp_path / "old.py").write_bytes(b"old")
    removal = Change(tmp_path / "old.py", b"old", None)
    with pytest.raises(CommandError, match="Nothing was changed"):
        apply_changes(
            [
                Change(tmp_path / "deep" / "new.py", None, b"new"),
                Change(tmp_path / "tune.py", b"old", b"next"),
                removal,
                removal,
            ]
        )

    assert snapshot(tmp_path) == {"tune.py": b"old", "old.py": b"old"}
    assert not (tmp_path / "deep").exists()
    assert stat.S_IMODE((tmp_path / "tune.py").stat().st_mode) == 0o640


def test_a_file_that_has_changed_in_the_meantime_is_not_overwritten(tmp_path: Path):
    """A file that has changed since it was read is not overwritten."""
    (tmp_path / "tune.py").write_bytes(b"newer")
    with pytest.raises(CommandError, match="changed in the meantime"):
        apply_changes(
            [
                Change(tmp_path / "a.py", None, b"a"),
                Change(tmp_path / "tune.py", b"old", b"next"),
            ]
        )

    assert snapshot(tmp_path) == {"tune.py": b"newer"}


def test_a_link_stays_a_link_and_a_mode_a_mode(tmp_path: Path):
    """A link stays a link, and a file keeps its mode."""
    (tmp_path / "real.py").write_bytes(b"old")
    (tmp_path / "real.py").chmod(0o755)
    (tmp_path / "tune.py").symlink_to("real.py")
    apply_changes([Change(tmp_path / "tune.py", b"old", b"next")])

    assert (tmp_path / "tune.py").is_symlink()
    assert (tmp_path / "real.py").read_bytes() == b"next"
    assert stat.S_IMODE((tmp_path / "real.py").stat().st_mode) == 0o755


def test_ctrl_c_waits_until_all_is_written(tmp_path: Path):
    """Ctrl-C during the changes takes effect after all of them, or before the first one."""
    changes = [Change(tmp_path / f"{n}.py", None, b"x" * 2_000_000) for n in range(40)]
    timer = threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        apply_changes(changes)
        timer.join()
    except KeyboardInterrupt:
        pass

    assert len(snapshot(tmp_path)) in {0, 40}


def test_a_thread_writes_without_handling_signals(tmp_path: Path):
    """Changes can be applied in a thread, which may not handle signals."""
    changes = [Change(tmp_path / "new.py", None, b"new")]
    thread = threading.Thread(target=apply_changes, args=[changes])
    thread.start()
    thread.join()

    assert snapshot(tmp_path) == {"new.py": b"new"}


def test_a_folder_goes_with_the_cache_of_what_was_in_it(tmp_path: Path):
    """A folder is removed with the bytecode of its last module, but not beside another module."""
    for folder, kept in (("gone", None), ("stays", "b.py")):
        cache = tmp_path / folder / "__pycache__"
        cache.mkdir(parents=True)
        (tmp_path / folder / "a.py").write_bytes(b"a")
        (cache / "a.cpython-311.pyc").touch()
        if kept:
            (tmp_path / folder / kept).touch()
            (cache / "b.cpython-311.pyc").touch()
        apply_changes([Change(tmp_path / folder / "a.py", b"a", None)])

    assert snapshot(tmp_path).keys() == {"stays/b.py", "stays/__pycache__/b.cpython-311.pyc"}
    assert not (tmp_path / "gone").exists()


contents = st.one_of(st.none(), st.binary(max_size=8))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.sampled_from("abc"), contents, contents), unique_by=lambda c: c[0]))
def test_any_changes_are_made_and_can_be_undone(
    tmp_path_factory: pytest.TempPathFactory, wanted: list[tuple[str, bytes | None, bytes | None]]
):
    """Any changes can be applied, and undone by exchanging before and after."""
    folder = tmp_path_factory.mktemp("any")
    for name, before, _ in wanted:
        if before is not None:
            (folder / name).write_bytes(before)
    (folder / "stays").touch()
    first = snapshot(folder)
    changes = [Change(folder / name, before, after) for name, before, after in wanted]
    apply_changes(changes)
    expected = {name: after for name, _, after in wanted if after is not None}

    assert snapshot(folder) == {"stays": b"", **expected}
    apply_changes([Change(c.path, c.after, c.before) for c in changes])
    assert snapshot(folder) == first


def test_a_diff_shows_new_changed_and_removed_files(tmp_path: Path):
    """A diff shows new, changed and removed files as `git diff` does."""
    shown = diff(
        [
            Change(tmp_path / "new.py", None, b"new\n"),
            Change(tmp_path / "empty.py", None, b""),
            Change(tmp_path / "gone.py", b"gone", None),
        ],
        tmp_path,
    )

    assert shown == (
        "--- /dev/null\n+++ b/new.py\n@@ -0,0 +1 @@\n+new\n"
        "--- /dev/null\n+++ b/empty.py\n"
        "--- a/gone.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-gone\n\\ No newline at end of file\n"
    )


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }

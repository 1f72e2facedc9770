from __future__ import annotations

import os
import re
import stat

import h5py
import pytest
import torch

from mriinv.data.geometry import Geometry
from mriinv.data.result_writer import ResultWriter
from mriinv.data.results import attributes, is_result, read_result
from mriinv.errors import InputError
from mriinv.metrics import Metrics

Y, X = 6, 5


def images(n: int = 3) -> torch.Tensor:
    return torch.randn(n, Y, X, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))


def mask() -> torch.Tensor:
    return torch.tensor([[True, False, True, True, False]])


def test_round_trip(tmp_path):
    path, image = tmp_path / "new" / "folder" / "scan.h5", images()
    with ResultWriter(path, [4, 2, 7], {"prior": "deepen", "step": 0.1}, {"versions": {"torch": "2"}}) as writer:
        for row, index in enumerate((4, 2, 7)):
            writer.add(
                index,
                image[row],
                mask=mask(),
                maps={"coil_maps": image[:2] * (row + 1), "std": image[row].abs()},
                history={"cost": torch.arange(row + 2.0)},
                reference=2 * image[row],
                metrics=Metrics(30.0 + row, 0.9, 0.01, 0.95, "support", "maximum"),
                solution={"iterations": row, "noise_std": float("nan")},
                remarks=[f"remark {row}", "ü"] if row else [],
                header={"mask": f"of slice {index}"},
                geometry=Geometry((1.0, 0.9), 5.0, (0.0, 0.0, float(index)), ((0, 1, 0), (1, 0, 0), (0, 0, 1))),
                samples=image[row].expand(2, 4, Y, X),
            )
            assert not path.exists()
    with h5py.File(path) as file:
        axes = {name: file[name].attrs["axes"] for name in ("image", "coil_maps", "samples", "std")}
    assert axes["coil_maps"] == "slice coil y x" and axes["samples"] == "slice chain draw y x"
    assert axes["image"] == axes["std"] == "slice y x"
    result = read_result(path)
    assert torch.equal(result.image, image)
    assert (result.slices, result.complete) == ((4, 2, 7), True)
    assert (result.settings, result.provenance) == ({"prior": "deepen", "step": 0.1}, {"versions": {"torch": "2"}})
    assert set(result.arrays) == {"mask", "coil_maps", "reference", "samples", "std"}
    assert torch.equal(result.arrays["mask"], mask().expand(3, 1, X))
    assert torch.equal(result.arrays["coil_maps"][1], 2 * image[:2])
    assert result.arrays["samples"].shape == (3, 2, 4, Y, X)
    assert result.metrics["psnr"].tolist() == [30, 31, 32]
    assert result.history[7]["cost"].tolist() == [0, 1, 2, 3]
    assert os.listdir(path.parent) == ["scan.h5"]
    assert (result.region, result.data_range) == ("support", "maximum")
    assert result.solution["iterations"].tolist() == [0, 1, 2] and result.solution["noise_std"].isnan().all()
    assert result.remarks == {2: ["remark 1", "ü"], 7: ["remark 2", "ü"]}
    assert result.header == {"mask": "of slice 4"}
    assert result.geometry[7].centre == (0, 0, 7) and result.geometry[2].axes[0] == (0, 1, 0)
    assert set(read_result(path, arrays=("std",)).arrays) == {"std"} and not read_result(path, arrays=()).arrays
    assert read_result(path, only=[2]).slices == (2,)
    assert torch.equal(read_result(path, only=[2]).image, image[1:2])


def test_a_result_may_be_read_by_those_whom_the_umask_allows(tmp_path):
    umask = os.umask(0o027)
    try:
        with ResultWriter(tmp_path / "scan.h5", 1, {}, {}) as writer:
            writer.add(0, images()[0], mask=mask())
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "scan.h5").stat().st_mode) == 0o640


def contents(folder: Path) -> list[str]:
    return sorted(re.sub(r"^(\.\w+)\.[0-9a-f]{8}\.slices$", r"\1.WORK.slices", name) for name in os.listdir(folder))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_finished_slices_survive_an_interruption(tmp_path, error):
    path = tmp_path / "scan.h5"
    with pytest.raises(error), ResultWriter(path, 3, {}, {}) as writer:
        writer.add(1, images()[1], mask=mask(), history={"cost": torch.ones(2)})
        raise error
    result = read_result(path)
    assert (result.slices, result.complete) == ((1,), False)
    assert torch.equal(result.image, images()[1:2])
    assert set(result.history) == {1}
    with h5py.File(path) as file:
        assert file["image"].shape == (3, Y, X)
        assert file["slices"][:].tolist() == [0, 1, 2] and file["finished"][:].tolist() == [1]
    assert contents(tmp_path) == [".scan.WORK.slices", "scan.h5"]


def test_interruption_in_the_middle_of_a_slice(tmp_path, monkeypatch):
    path = tmp_path / "scan.h5"
    with pytest.raises(KeyboardInterrupt), ResultWriter(path, 3, {}, {}) as writer:
        writer.add(0, images()[0], mask=mask())
        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", interrupt)
            writer.add(1, images()[1], mask=mask(), history={"cost": torch.ones(2)})
    result = read_result(path)
    assert result.slices == (0,)
    assert result.history == {}
    with h5py.File(path) as file:
        assert (file["image"][1:] != file["image"][1:]).all()  # rows that were not written hold NaN


def add(writer: ResultWriter, *slices: int) -> None:
    for index in slices:
        writer.add(index, images()[index], mask=mask(), history={"cost": torch.full((2,), 1.0 * index)}, remarks=["r"])


def test_what_was_finished_is_not_asked_for_again(tmp_path):
    whole, path = tmp_path / "whole.h5", tmp_path / "scan.h5"
    with ResultWriter(whole, 3, {"a": 1}, {}) as writer:
        add(writer, 0, 1, 2)
    killed = ResultWriter(path, 3, {"a": 1}, {})  # never closed, as after kill -9
    add(killed, 2, 0)
    assert not path.exists()
    with pytest.raises(InputError, match="another run of the same that writes it"):
        ResultWriter(path, 3, {"a": 1}, {})
    del killed
    with ResultWriter(path, 3, {"a": 1}, {}) as writer:
        assert writer.missing == [1]
        with pytest.raises(ValueError, match="not announced"):
            add(writer, 2)
        add(writer, 1)
    assert (tmp_path / "scan.h5").read_bytes() == whole.read_bytes()
    with ResultWriter(path, 3, {"a": 1}, {}) as writer:
        assert writer.missing == [] and writer.written == path
    with ResultWriter(path, 3, {"a": 1}, {}, restart=True) as writer:
        assert writer.missing == [0, 1, 2]
        add(writer, 1)
    assert contents(tmp_path) == [".scan.WORK.slices", "scan.h5", "scan.partial.h5", "whole.h5"]
    with ResultWriter(path, 3, {"a": 1}, {}) as writer:  # the complete result is there
        assert writer.missing == []


@pytest.mark.parametrize("other", [({"a": 2}, {}), ({"a": 1}, {"seed": 1})])
def test_slices_of_other_work_are_not_taken_over(tmp_path, other):
    path = tmp_path / "scan.h5"
    with ResultWriter(path, 2, {"a": 1}, {}) as interrupted:
        add(interrupted, 0)
    assert not interrupted.replaced
    with ResultWriter(path, 2, *other) as writer:
        assert writer.missing == [0, 1]
        add(writer, 0, 1)
    assert writer.replaced and read_result(path).settings == other[0]
    with ResultWriter(path, 2, {"a": 1}, {}) as writer:  # and are not lost either
        assert writer.missing == [1]
        add(writer, 1)
    assert writer.replaced and contents(tmp_path) == ["scan.h5"]


def test_two_works_at_once_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "scan.h5"
    with (
        ResultWriter(path, 2, {"a": 1}, {}) as one,
        ResultWriter(path, 2, {}, {}) as two,
    ):
        for index in (0, 1):
            add(one, index)
            add(two, index)
    assert read_result(path).settings == {"a": 1} and contents(tmp_path) == ["scan.h5"]


def test_a_damaged_slice_of_the_journal_is_computed_anew(tmp_path):
    path = tmp_path / "scan.h5"
    add(ResultWriter(path, 2, {}, {}), 0, 1)
    (slice1,) = tmp_path.glob(".scan.*.slices/1.h5")
    slice1.write_bytes(b"half")
    assert ResultWriter(path, 2, {}, {}).missing == [1]


def test_a_folder_of_somebody_else_is_not_taken_for_a_journal(tmp_path):
    add(ResultWriter(tmp_path / "scan.h5", 2, {}, {}), 0)
    (folder,) = tmp_path.glob(".scan.*.slices")
    (folder / "mine").write_text("")
    with pytest.raises(InputError, match="files of others"):
        ResultWriter(tmp_path / "scan.h5", 2, {}, {}, restart=True)
    (folder / "mine").unlink()
    assert ResultWriter(tmp_path / "scan.h5", 2, {}, {}).missing == [1]  # nothing is held by the one that was refused


def test_what_a_kill_leaves_of_a_journal_is_taken_away(tmp_path):
    for leftover in ("1.h5", ".1.7a.h5", ".identity.7a", "assembled"):  # without the mark
        ResultWriter(tmp_path / "scan.h5", 2, {}, {})
        (folder,) = tmp_path.glob(".scan.*.slices")
        (folder / "identity").unlink()
        (folder / leftover).write_text("")
        with ResultWriter(tmp_path / "scan.h5", 2, {}, {}) as writer:
            assert writer.missing == [0, 1]
        assert not folder.exists()
    with ResultWriter(tmp_path / "scan.h5", 2, {}, {}) as writer:
        add(writer, 0, 1)
    folder.mkdir()  # killed after the result had its name
    (folder / "identity").write_text("")
    assert ResultWriter(tmp_path / "scan.h5", 2, {}, {}).missing == [] and not folder.exists()


def test_a_partial_result_goes_when_the_work_is_complete(tmp_path):
    path = tmp_path / "scan.h5"
    with ResultWriter(path, 1, {"a": 1}, {}) as writer:
        add(writer, 0)
    with ResultWriter(path, 2, {"a": 2}, {}) as writer:
        add(writer, 0)
    assert writer.written == tmp_path / "scan.partial.h5"
    with ResultWriter(path, 2, {"a": 2}, {}) as writer:
        add(writer, 1)
    assert os.listdir(tmp_path) == ["scan.h5"] and read_result(path).complete


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, None])
def test_nothing_is_left_without_a_finished_slice(tmp_path, error):
    if error is None:
        with ResultWriter(tmp_path / "scan.h5", 3, {}, {}):
            pass
    else:
        with pytest.raises(error), ResultWriter(tmp_path / "scan.h5", 3, {}, {}):
            raise error
    assert os.listdir(tmp_path) == []


def test_an_older_result_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "scan.h5"
    for attempt in (1, 2):
        with ResultWriter(path, 1, {"attempt": attempt}, {}) as writer:
            if attempt == 2:
                assert read_result(path).settings == {"attempt": 1}
            writer.add(0, images()[0], mask=mask())
    assert read_result(path).settings == {"attempt": 2}
    with pytest.raises(RuntimeError), ResultWriter(path, 1, {"attempt": 3}, {}):
        raise RuntimeError
    assert read_result(path).settings == {"attempt": 2}


def test_a_complete_result_outlives_an_incomplete_one(tmp_path):
    path, partial = tmp_path / "scan.h5", tmp_path / "scan.partial.h5"
    for attempt, slices in enumerate((2, 1, 2, 1)):  # incomplete, complete, incomplete, complete
        path.with_suffix(".png").write_text("the figure of the one before")
        with ResultWriter(path, slices, {"attempt": attempt}, {}) as writer:
            writer.add(0, images()[0], mask=mask())
        assert writer.written == (partial if attempt == 2 else path)
        assert path.with_suffix(".png").exists() == (attempt in (0, 2))  # the first stands beside no result
    assert read_result(path).settings == {"attempt": 3} and read_result(partial).settings == {"attempt": 2}


def test_what_cannot_be_read_is_not_replaced_by_an_incomplete_result(tmp_path):
    path = tmp_path / "scan.h5"
    with ResultWriter(path, 1, {"a": 1}, {}) as writer:
        add(writer, 0)
    with ResultWriter(path, 2, {"a": 2}, {}) as writer:
        add(writer, 0)
        elsewhere = h5py.File(path, "r+")  # another program holds its lock when this one ends
    elsewhere.close()
    assert writer.written == tmp_path / "scan.partial.h5"
    assert read_result(path).complete and read_result(path).settings == {"a": 1}


def test_a_rename_that_fails_leaves_nothing_half_written(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError("No space left on device")

    writer = ResultWriter(tmp_path / "scan.h5", 1, {}, {})
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(InputError, match="No space left"), writer:
        writer.add(0, images()[0], mask=mask())
    assert os.listdir(tmp_path) == []


def test_misuse(tmp_path):
    with ResultWriter(tmp_path / "scan.h5", 2, {}, {}) as writer:
        with pytest.raises(ValueError, match=r"\(y, x\)"):
            writer.add(0, images(), mask=mask())
        writer.add(0, images()[0], mask=mask())
        for index in (0, 2):
            with pytest.raises(ValueError, match="not announced"):
                writer.add(index, images()[0], mask=mask())
        with pytest.raises(InputError, match=r"mask: found shape \(1, 4\) in slice 1; expected \(1, 5\), as before"):
            writer.add(1, images()[0], mask=mask()[:, 1:])
        for name in ("image", "slices"):
            with pytest.raises(ValueError, match=f"may not be called {name}"):
                writer.add(1, images()[0], mask=mask(), maps={name: mask()})


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "scan.h5", tmp_path / "file" / "a" / "scan.h5", tmp_path):
        with pytest.raises(InputError, match="cannot be written"):
            ResultWriter(path, 1, {}, {})
    assert os.listdir(tmp_path) == ["file"]


def test_more_slices_than_an_attribute_holds(tmp_path):
    path = tmp_path / "scan.h5"
    with ResultWriter(path, 8200, {}, {}) as writer:
        writer.add(8199, images()[0], mask=mask())
    assert read_result(path).slices == (8199,)
    assert attributes(path)["finished"].tolist() == [8199] and attributes(path)["slices"].tolist() == [*range(8200)]


def test_results_that_have_their_slices_as_attributes_are_read(tmp_path):
    path = tmp_path / "scan.h5"
    with ResultWriter(path, [4, 2, 7], {}, {}) as writer:
        for index in (7, 4):
            writer.add(index, images()[0], mask=mask())
    with h5py.File(path, "r+") as file:
        for name in ("slices", "finished"):
            file.attrs[name] = file[name][:]
            del file[name]
    assert read_result(path).slices == (4, 7) and attributes(path)["slices"].tolist() == [4, 2, 7]


@pytest.mark.parametrize("value", [["mriinv result", "other"], 2, h5py.Empty("f")])
def test_files_that_have_a_format_of_their_own_are_no_results(tmp_path, value):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file.attrs["format"] = value
    assert not is_result(tmp_path / "other.h5")
    with pytest.raises(InputError, match=r"other\.h5: format: found .*; expected mriinv result"):
        read_result(tmp_path / "other.h5")


def test_reading_something_else(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["kspace"] = 1
    (tmp_path / "text.h5").write_text("text")
    for name in ("other.h5", "text.h5", "missing.h5", "."):
        with pytest.raises(InputError, match="mriinv result"):
            read_result(tmp_path / name)


@pytest.mark.parametrize("name", ["image", "metrics", "solution", "history", "remarks", "geometry"])
def test_entries_of_another_kind(tmp_path, name):
    """A group in place of values, and values in place of a group."""
    with ResultWriter(tmp_path / "scan.h5", 1, {}, {}) as writer:
        writer.add(
            0,
            images()[0],
            mask=mask(),
            history={"cost": torch.ones(1)},
            metrics=Metrics(30.0, 0.9, 0.01, 0.95, "support", "maximum"),
            solution={"iterations": 1},
            remarks=["r"],
            geometry=Geometry((1.0, 0.9), 5.0),
        )
    with h5py.File(tmp_path / "scan.h5", "r+") as file:
        was_group = isinstance(file[name], h5py.Group)
        del file[name]
        if was_group:
            file[name] = [1.0]
        else:
            file.create_group(name)
    with pytest.raises(InputError, match="mriinv result"):
        read_result(tmp_path / "scan.h5")


def test_a_file_system_without_locks_is_written_with_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(*_: object) -> None:
        raise NotImplementedError("no flock")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    with ResultWriter(tmp_path / "scan.h5", 1, {}, {}) as writer:
        add(writer, 0)
    assert read_result(tmp_path / "scan.h5").complete
    assert "file system has no locks, which would keep another run of the same that writes it away" in caplog.text


def test_more_slices_make_another_result(tmp_path):
    path = tmp_path / "scan.h5"
    with ResultWriter(path, [0], {}, {}) as writer:
        add(writer, 0)
    with ResultWriter(path, [0, 1], {}, {}) as writer:
        assert writer.missing == [0, 1]
        add(writer, 0, 1)
    assert read_result(path).slices == (0, 1)


def test_slices_of_a_result_have_one_shape(tmp_path):
    path = tmp_path / "scan.h5"
    add(ResultWriter(path, 2, {}, {}), 0)  # killed
    other = r"mask: found shape \(1, 4\) in slice 1; expected \(1, 5\), as before"
    with ResultWriter(path, 2, {}, {}) as writer, pytest.raises(InputError, match=other):
        writer.add(1, images()[1], mask=mask()[:, 1:])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("image", torch.zeros(3, Y, X).numpy(), "image: found torch.float32"),
        ("image", torch.zeros(3, Y, dtype=torch.complex64).numpy(), r"image: found torch.complex64 \(3, 6\)"),
        ("slices", [0, 1, 1], r"of slices \[0, 1, 1\]; expected complex64 \(slices, y, x\), each slice once"),
        ("image", h5py.ExternalLink("other.h5", "/image"), "a link instead of data"),
        ("more", h5py.SoftLink("/image"), "a link instead of data"),
    ],
)
def test_what_is_no_image_of_each_slice(tmp_path, name, value, message):
    with ResultWriter(tmp_path / "scan.h5", 3, {}, {}) as writer:
        add(writer, 0, 1, 2)
    with h5py.File(tmp_path / "scan.h5", "r+") as file:
        if name in file:
            del file[name]
        file[name] = value
    with pytest.raises(InputError, match=message):
        read_result(tmp_path / "scan.h5")


@pytest.mark.parametrize("name", ["settings", "provenance"])
def test_what_was_run_is_a_mapping(tmp_path, name):
    with ResultWriter(tmp_path / "scan.h5", 3, {}, {}) as writer:
        add(writer, 0, 1, 2)
    with h5py.File(tmp_path / "scan.h5", "r+") as file:
        file.attrs[name] = "[1]"
    with pytest.raises(InputError, match=rf"scan\.h5: {name}: found list; expected a mapping"):
        read_result(tmp_path / "scan.h5")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "scan.h5")
    with pytest.raises(InputError, match=r"scan\.h5: found no regular file; expected a mriinv result"):
        read_result(tmp_path / "scan.h5")

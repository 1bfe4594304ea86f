import numpy as np
import pytest
from metric_cases import F8_LABELS, F8_PROBS, log, split

from benchmark.errors import CorruptFile, Diverged, PredictionError
from benchmark.metrics.predictions import Predictions, SplitPredictions
from benchmark.metrics.scoring import score


def full():
    entropy = np.full(8, 0.0)
    return Predictions(
        test=split(F8_PROBS, F8_LABELS, entropy),
        val=split(F8_PROBS[1:], F8_LABELS[1:]),
        ood={
            "far.noise": split(F8_PROBS[:3], expected_entropy=entropy[:3]),
            "near": split(F8_PROBS, None, entropy),
            "pgd-linf-0.0627x20": split(F8_PROBS[3:7], F8_LABELS[:4], entropy[:4], [0.1, np.nan, np.inf, -2.0]),
        },
        true_log_probs=log(np.full((8, 3), 1 / 3)),
        draws=30,
    )


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "predictions.npz"
    np.savez(path, **full().arrays())
    return path


def test_the_file_holds_the_documented_arrays():
    arrays = full().arrays()
    assert {key: (array.dtype.name, array.shape) for key, array in arrays.items()} == {
        "test.log_probs": ("float32", (8, 3)),
        "test.labels": ("int64", (8,)),
        "test.expected_entropy": ("float32", (8,)),
        "val.log_probs": ("float32", (7, 3)),
        "val.labels": ("int64", (7,)),
        "ood.far.noise.log_probs": ("float32", (3, 3)),
        "ood.far.noise.expected_entropy": ("float32", (3,)),
        "ood.pgd-linf-0.0627x20.log_probs": ("float32", (4, 3)),
        "ood.pgd-linf-0.0627x20.labels": ("int64", (4,)),
        "ood.pgd-linf-0.0627x20.expected_entropy": ("float32", (4,)),
        "ood.pgd-linf-0.0627x20.score": ("float32", (4,)),
        "ood.near.log_probs": ("float32", (8, 3)),
        "ood.near.expected_entropy": ("float32", (8,)),
        "test.true_log_probs": ("float32", (8, 3)),
        "meta.draws": ("int64", ()),
        "meta.deterministic": ("bool", ()),
    }


def test_loading_gives_back_the_arrays_and_the_scores_bit_for_bit(path):
    stored = Predictions.from_arrays(full().arrays())
    loaded = Predictions.load(path)
    for key, array in stored.arrays().items():
        np.testing.assert_array_equal(loaded.arrays()[key], array)
    assert (loaded.draws, loaded.deterministic) == (30, False)
    assert (list(loaded.ood), list(loaded.attacked)) == (
        ["far.noise", "near", "pgd-linf-0.0627x20"],
        ["pgd-linf-0.0627x20"],
    )
    assert score(loaded) == score(stored)


def test_the_smallest_file_needs_no_optional_array(tmp_path):
    minimal = Predictions(split(F8_PROBS, F8_LABELS), deterministic=True)
    np.savez_compressed(tmp_path / "p.npz", **minimal.arrays())
    loaded = Predictions.load(tmp_path / "p.npz")
    assert (loaded.val, dict(loaded.ood), loaded.true_log_probs, loaded.draws, loaded.deterministic) == (
        None,
        {},
        None,
        1,
        True,
    )


def test_arrays_for_study_are_ignored(path):
    np.savez(path, **full().arrays(), **{"test.member_log_probs": np.zeros((2, 8, 3), np.float16)})
    assert Predictions.load(path).draws == 30


def test_a_file_cut_anywhere_is_corrupt(path):
    content = path.read_bytes()
    for length in range(0, len(content), 97):
        path.write_bytes(content[:length])
        with pytest.raises(CorruptFile, match=r"predictions\.npz cannot be read"):
            Predictions.load(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_flipped_bit_is_found_wherever_it_matters(path, save):
    save(path, **full().arrays())
    content, intact = path.read_bytes(), Predictions.load(path).arrays()
    found = 0
    for position in range(0, len(content), 17):
        damaged = bytearray(content)
        damaged[position] ^= 0x10
        path.write_bytes(bytes(damaged))
        try:
            arrays = Predictions.load(path).arrays()
        except CorruptFile:
            found += 1
            continue
        assert arrays.keys() == intact.keys()  # time stamps and the like are not protected, the content is
        for key, array in arrays.items():
            np.testing.assert_array_equal(array, intact[key])
    assert found > len(content) / 17 / 2


def test_other_kinds_of_file_are_corrupt(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(CorruptFile):
        Predictions.load(path)
    np.savez(path, **{"test.log_probs": np.array([None], dtype=object)}, allow_pickle=True)
    with pytest.raises(CorruptFile, match="pickle"):
        Predictions.load(path)


def test_a_missing_file_is_missing_and_not_corrupt(tmp_path):
    with pytest.raises(FileNotFoundError):
        Predictions.load(tmp_path / "predictions.npz")


@pytest.mark.parametrize("key", ["test.log_probs", "meta.draws", "meta.deterministic"])
def test_a_missing_array_is_named(path, key):
    arrays = full().arrays()
    del arrays[key]
    np.savez(path, **arrays)
    with pytest.raises(CorruptFile, match=rf"predictions\.npz lacks .*'{key}'"):
        Predictions.load(path)


def test_bad_content_names_path_array_and_row_and_keeps_its_kind(path):
    arrays = full().arrays()
    arrays["val.log_probs"][2] += 1
    np.savez(path, **arrays)
    with pytest.raises(PredictionError, match=r"predictions\.npz: row 2 of 'val\.log_probs' sums to 2\.71828"):
        Predictions.load(path)
    arrays["test.log_probs"][5, 1] = np.nan
    np.savez(path, **arrays)
    with pytest.raises(Diverged, match=r"predictions\.npz: row 5 of 'test\.log_probs' holds NaN"):
        Predictions.load(path)


def test_what_is_derived_is_computed_once():
    test = SplitPredictions(log(F8_PROBS), F8_LABELS)
    calls = []

    def shared(split):
        calls.append(split)
        return len(split)

    assert [test.once(shared), test.once(shared)] == [8, 8]
    assert calls == [test]
    assert test.probs is test.probs

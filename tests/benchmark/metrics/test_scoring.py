import json
import subprocess
import sys

import numpy as np
import pytest
from metric_cases import F8_LABELS, F8_PROBS, f8, log, split

from benchmark.metrics import catalogue, scoring
from benchmark.metrics.catalogue import METRICS, PREDICTION_METRICS, metric_of
from benchmark.metrics.record import Metric, Value
from benchmark.metrics.scoring import Predictions, SplitPredictions, compare, score

OOD_NAMES = [
    f"{base}[{s}]" for s in ("msp", "entropy", "mi", "own") for base in ("ood_auroc", "ood_fpr95", "ood_fpr95_id")
]
POINT_NAMES = [
    "accuracy",
    "nll",
    "brier",
    "ece15",
    "ece15m",
    "gap",
    "ece15_floor",
    "ece15_floor95",
    "ece15_p",
    "ece15m_floor",
    "ece15m_floor95",
    "ece15m_p",
    "nll_ts",
    "ece15_ts",
    "temperature",
    "aurc",
    "eaurc",
    "entropy",
    "mi",
]
SHIFT_NAMES = ["shift_accuracy", "shift_nll", "shift_ece15"]
LAW_NAMES = ["excess_nll", "true_ece15"]
SETS = ("svhn", "noise", "pgd-linf-0.0627x20")


def complete(draws=5):
    entropy, score = f8().entropies * 0.5, np.arange(8.0)
    test = split(F8_PROBS, F8_LABELS, entropy, score)
    return Predictions(
        test=test,
        val=split(F8_PROBS[1:], [0, 1, 1, 2, 1, 2, 0]),
        ood={
            "svhn": split(F8_PROBS[3:], None, entropy[3:], score[3:]),
            "noise": split([(1 / 3,) * 3], None, np.array([0.2]), [9.0]),
            "pgd-linf-0.0627x20": split(F8_PROBS[3:], F8_LABELS[:5], entropy[3:], score[3:]),
        },
        shifted={2: {"blur": f8()}, 4: {"blur": f8(), "noise": split(F8_PROBS[3:], F8_LABELS[:5])}},
        true_log_probs=log(0.5 * F8_PROBS + 0.5 / 3),
        draws=draws,
    )


def test_everything_is_scored_in_the_order_of_the_catalogue():
    results = score(complete())
    ood = [f"{name}.{ood}" for name in OOD_NAMES for ood in SETS]
    shift = [f"{name}.{severity}" for name in SHIFT_NAMES for severity in ("2", "4", "mean")]
    assert list(results) == [*POINT_NAMES, *ood, "attacked_accuracy.pgd-linf-0.0627x20", *shift, *LAW_NAMES]
    states = {name: result["state"] for name, result in results.items()}
    assert states.pop("excess_nll") == "inf"  # F8 has zeros that the true law does not
    assert set(states.values()) == {"ok"}


def test_results_are_json_under_the_name_and_version_of_their_metric():
    results = score(complete())
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    for name, result in results.items():
        metric = metric_of(name)
        assert (result["metric"], result["version"]) == (metric.name, metric.version)
        if result["state"] == "ok":
            assert metric.range[0] - 1e-9 <= result["value"] <= metric.range[1] + 1e-9
    assert results["ood_auroc[msp].svhn"]["metric"] == "ood_auroc[msp]"


def test_what_has_no_meaning_is_not_applicable_by_rule():
    results = score(Predictions(f8(), deterministic=True))
    assert {name: result["reason"] for name, result in results.items() if result["state"] == "na"} == {
        **dict.fromkeys(["nll_ts", "ece15_ts", "temperature"], "the task has no validation split"),
        "mi": "the posterior is deterministic",
        **dict.fromkeys(OOD_NAMES, "the task has no OOD set, and the protocol no attack"),
        "attacked_accuracy": "the protocol has no attack",
        **dict.fromkeys(SHIFT_NAMES, "the protocol has no shift"),
        **dict.fromkeys(LAW_NAMES, "the law of the task is not known"),
    }
    assert sum(result["state"] == "ok" for result in results.values()) == len(results) - 22


def test_one_draw_has_no_mutual_information_even_as_an_ood_score():
    one = complete(draws=1)
    results = score(one)
    not_applicable = {name: result for name, result in results.items() if result["state"] == "na"}
    mi = [f"{name}.{ood}" for name in OOD_NAMES[6:9] for ood in SETS]
    assert list(not_applicable) == ["mi", *mi]
    assert {result["reason"] for result in not_applicable.values()} == {"one draw (S = 1)"}


def test_without_a_score_of_its_own_a_posterior_has_no_detector_of_its_own():
    test = split(F8_PROBS, F8_LABELS)
    results = score(Predictions(test, ood={"far": split(F8_PROBS)}))
    reasons = {name: result.get("reason") for name, result in results.items() if "[own]" in name}
    own = [f"{base}[own].far" for base in ("ood_auroc", "ood_fpr95", "ood_fpr95_id")]
    assert reasons == dict.fromkeys(own, "the posterior has no score of its own")


def test_attacked_examples_are_compared_with_the_same_examples_before_the_attack():
    attacked = split(F8_PROBS[3:], F8_LABELS[:5])
    test = f8()
    results = score(Predictions(test, ood={"attack": attacked, "far": split(F8_PROBS[3:])}))
    first = split(F8_PROBS[:5], F8_LABELS[:5])
    for name in ("ood_auroc[msp]", "ood_fpr95[entropy]"):
        assert results[f"{name}.attack"]["value"] == METRICS[name].compute(first, attacked).value
        assert results[f"{name}.far"]["value"] == METRICS[name].compute(test, split(F8_PROBS[3:])).value
    assert results["ood_auroc[msp].attack"]["extra"] == {"n_id": 5, "n_ood": 5}
    assert results["attacked_accuracy.attack"]["value"] == np.mean(F8_PROBS[3:].argmax(1) == F8_LABELS[:5])
    assert "attacked_accuracy.far" not in results


def test_rules_are_decided_before_running(monkeypatch):
    def must_not_run(*inputs):
        raise AssertionError("computed")

    metric = Metric("mi", 1, "nat", "none", (0, 1), ("expected_entropy",), compute=must_not_run)
    monkeypatch.setattr(scoring, "PREDICTION_METRICS", (metric,))
    assert score(Predictions(f8()))["mi"]["state"] == "na"


def test_what_is_missing_for_another_reason_has_failed():
    results = score(Predictions(f8(), draws=30))
    assert results["mi"]["state"] == "failed"
    assert "expected_entropy" in results["mi"]["reason"]


def test_a_zero_at_a_validation_label_fails_the_scaled_metrics_only():
    results = score(Predictions(f8(), val=split([(1, 0, 0)], [1])))
    failed = {name: result["reason"] for name, result in results.items() if result["state"] == "failed"}
    assert failed == dict.fromkeys(["nll_ts", "ece15_ts", "temperature"], "zero probability at a validation label")


@pytest.mark.parametrize(("error", "reason"), [(ValueError("no luck"), "no luck"), (MemoryError(), "MemoryError")])
def test_a_metric_that_raises_fails_and_loses_no_other(monkeypatch, error, reason):
    def broken(test):
        raise error

    bad = Metric("bad", 2, "", "up", (0, 1), ("log_probs",), compute=broken)
    monkeypatch.setattr(scoring, "PREDICTION_METRICS", (bad, *PREDICTION_METRICS))
    results = score(Predictions(f8()))
    assert results.pop("bad") == {"metric": "bad", "version": 2, "state": "failed", "reason": reason}
    monkeypatch.undo()
    assert results == score(Predictions(f8()))


def test_scores_are_pinned_to_the_metrics_themselves():
    results, test = score(complete()), complete().test
    for metric in PREDICTION_METRICS:
        if not {"val", "ood", "attacked", "shifted", "true_log_probs"} & set(metric.needs):
            assert results[metric.name] == metric.compute(test).to_json(metric)


def test_shift_is_the_plain_mean_over_corruptions_and_then_over_severities_sets_alike():
    predictions, results = complete(), score(complete())
    sets = {f"{name}.{level}": each for level, group in predictions.shifted.items() for name, each in group.items()}
    single = {name: -float(each.label_log_prob.mean()) for name, each in sets.items()}
    assert results["shift_nll.2"]["value"] == pytest.approx(single["blur.2"], abs=1e-12)
    assert results["shift_nll.4"]["value"] == pytest.approx((single["blur.4"] + single["noise.4"]) / 2, abs=1e-12)
    assert results["shift_nll.mean"]["value"] == pytest.approx(sum(single.values()) / 3, abs=1e-12)
    assert results["shift_nll.mean"]["extra"]["sets"] == pytest.approx(single)
    assert results["shift_nll.4"]["n"] == 13


def test_an_infinite_nll_under_one_corruption_is_infinite_and_named():
    certain = split([(1.0, 0, 0), (0, 1.0, 0)], [0, 0])
    found = score(Predictions(f8(), shifted={1: {"blur": f8(), "noise": certain}}))["shift_nll.1"]
    assert (found["state"], found["extra"]["infinite"]) == ("inf", ["noise"])
    assert set(found["extra"]["sets"]) == {"blur"}


def test_comparison_with_a_reference_predictive():
    results = compare(f8(), f8())
    assert {name: result["value"] for name, result in results.items()} == {"agreement": 1.0, "tv": 0.0}
    assert compare(f8(), split([(0.5, 0.5)]))["tv"]["state"] == "failed"


def test_names_are_unique_and_definitions_complete():
    groups = (PREDICTION_METRICS, catalogue.COMPARISON_METRICS, catalogue.compression.METRICS, catalogue.cost.METRICS)
    names = [metric.name for group in groups for metric in group]
    assert len(set(names)) == len(names)
    assert set(names) <= METRICS.keys()
    for name, metric in METRICS.items():
        assert name == metric.name
        assert metric.version == 1
        assert metric.range[0] < metric.range[1]
        assert metric.needs
    assert metric_of("ood_auroc[mi].far.noise") is METRICS["ood_auroc[mi]"]
    with pytest.raises(KeyError):
        metric_of("acuracy")


def test_scoring_imports_no_torch_and_no_scipy():
    code = "import sys, benchmark.metrics.scoring, benchmark.statistics; print({'torch', 'scipy'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "set()"


def test_splits_without_arrays_of_draws_are_legal():
    assert Value.from_json(score(Predictions(SplitPredictions(log([(0.5, 0.5)]), np.array([0]))))["nll"]).n == 1

"""How records become tables: grouping, aggregation, order, marks, refusals."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from leaderboard_cases import done, failed, over_seeds, result, spec, study, values

from benchmark.attacks.config import Attack
from benchmark.errors import ConfigError
from benchmark.leaderboard import Record, as_csv, as_html, as_json, as_markdown, as_text, build
from benchmark.leaderboard.cell import SeedValue, aggregate
from benchmark.leaderboard.names import row_names
from benchmark.leaderboard.table import Leaderboard, Row
from benchmark.leaderboard.text import cell_text
from benchmark.metrics.record import Value


def rows(board: Leaderboard) -> dict[str, Row]:
    return {row.label: row for row in board.rows}


def order_of(board: Leaderboard) -> list[str]:
    return [row.label for row in board.rows]


def test_three_seeds_give_a_t_interval_two_a_range_one_a_value() -> None:
    records = over_seeds("map", (0.91, 0.93, 0.92)) + over_seeds("pwfn", (0.5, 0.6)) + over_seeds("2dgbnn", (0.7,))
    shown = {label: cell_text(row, "nll") for label, row in rows(build(records)).items()}
    # .92 +- 4.3027 * .01 / sqrt(3)
    assert shown == {"map": "0.9200 ±0.0248", "pwfn": "0.5500 [0.5000, 0.6000]", "2dgbnn": "0.7000"}


def test_a_missing_seed_leaves_the_mean_of_the_others_marked_unranked_and_never_bold() -> None:
    records = over_seeds("map", (0.5, 0.5, 0.5, 0.5, 0.5)) + over_seeds("pwfn", (0.1, 0.1, 0.1, 0.1))
    records += over_seeds("mean_field", (0.6, 0.7, 0.8, 0.9, 0.9))
    board = build([*records, failed(spec("pwfn", 4))])
    row = rows(board)["pwfn"]
    assert row.coverage == "4/5"
    assert (row.cells["nll"].n, row.cells["nll"].expected, row.cells["nll"].complete) == (4, 5, False)
    assert row.marks == {}
    assert cell_text(row, "nll") == "0.1000 ±0.0000‡"
    assert order_of(board) == ["map", "mean_field", "pwfn"]
    assert "best" in rows(board)["map"].marks["nll"]


def test_na_leaves_the_coverage_of_a_cell_unchanged_and_is_decided_by_rule() -> None:
    na = Value.na("the task has no validation split")
    board = build([*over_seeds("map", (0.3, 0.4, 0.5), nll_ts=na), failed(spec("map", 3))])
    cell = rows(board)["map"].cells["nll_ts"]
    assert (cell.state, cell.n, cell.expected) == ("na", 0, 0)
    assert cell_text(rows(board)["map"], "nll_ts") == "n/a"
    assert rows(board)["map"].coverage == "3/4"

    one = aggregate("mi", [SeedValue(0, "ok", 0.2), SeedValue(1, "ok", 0.3), SeedValue(2, "na", reason="S = 1")])
    assert (one.state, one.n, one.expected, one.complete) == ("ok", 2, 2, True)


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("nll", ["a", "b", "infinite", "partial", "oom", "nothing"]),
        ("-nll", ["b", "a", "infinite", "partial", "oom", "nothing"]),
        ("accuracy", ["b", "a", "infinite", "partial", "nothing", "oom"]),
        ("gap", ["b", "a", "infinite", "partial", "nothing", "oom"]),
        ("method", ["a", "b", "infinite", "nothing", "oom", "partial"]),
        ("-method", ["partial", "oom", "nothing", "infinite", "b", "a"]),
    ],
)
def test_failed_and_na_rows_are_last_in_every_order(sort: str, expected: list[str]) -> None:
    records = over_seeds("a", (0.1, 0.2), accuracy=0.8, gap=0.02) + over_seeds("b", (0.3, 0.4), accuracy=0.9, gap=-0.01)
    infinite = Value.infinite(899)
    records += [done(spec("infinite", seed), nll=infinite, accuracy=0.7, gap=0.03) for seed in range(2)]
    records += [done(spec("nothing", seed), nll=Value.na("no"), accuracy=0.6, gap=0.04) for seed in range(2)]
    records += [*over_seeds("partial", (0.01,), accuracy=0.99, gap=0.0), failed(spec("partial", 1))]
    records += [failed(spec("oom", seed)) for seed in range(2)]
    if sort in ("accuracy", "gap"):  # complete there, so it is ranked before the incomplete row
        expected = [*expected[:3], "nothing", "partial", "oom"]
    assert order_of(build(records, sort=sort)) == expected


def test_gap_is_ordered_by_its_size_per_seed_so_that_signs_do_not_cancel() -> None:
    swings = [done(spec("swings", seed), gap=gap) for seed, gap in enumerate((0.10, -0.10, 0.0))]
    steady = [done(spec("steady", seed), gap=gap) for seed, gap in enumerate((0.01, 0.012, 0.011))]
    board = build(swings + steady, sort="gap")
    assert order_of(board) == ["steady", "swings"]
    assert "best" in rows(board)["steady"].marks["gap"]


def test_bold_is_the_best_mean_and_what_its_paired_interval_does_not_separate() -> None:
    base = (0.30, 0.40, 0.35)
    records = over_seeds("best", base)
    records += over_seeds("equal", base)
    records += over_seeds("close", (0.32, 0.39, 0.36))  # differences .02 -.01 .01: the interval contains 0
    records += over_seeds(
        "worse", tuple(value + delta for value, delta in zip(base, (0.010, 0.011, 0.012), strict=True))
    )
    marks = {label: row.marks.get("nll", frozenset()) for label, row in rows(build(records)).items()}
    assert {label for label, each in marks.items() if "best" in each} == {"best", "equal", "close"}
    assert "best" not in marks["worse"]
    assert sum("second" in each for each in marks.values()) == 1


def test_below_three_seeds_the_best_is_underlined_with_its_ties_and_nothing_is_bold() -> None:
    records = over_seeds("a", (0.3, 0.4)) + over_seeds("b", (0.4, 0.3)) + over_seeds("c", (0.5, 0.6))
    marks = {label: row.marks.get("nll", frozenset()) for label, row in rows(build(records)).items()}
    assert marks == {"a": {"second"}, "b": {"second"}, "c": frozenset()}


def test_a_calibrated_row_is_marked_so_and_its_column_has_no_best() -> None:
    records = over_seeds("calibrated", (0.3, 0.4, 0.5), ece15=0.0131) + over_seeds("other", (0.3, 0.4, 0.5), ece15=0.05)
    shown = rows(build(records))
    assert cell_text(shown["calibrated"], "ece15") == "1.31 ±0.00 (1.24)≈"
    assert cell_text(shown["other"], "ece15") == "5.00 ±0.00 (1.24)"
    assert all("ece15" not in row.marks for row in shown.values())


def test_two_versions_of_one_metric_are_refused_with_the_command_that_mends_it() -> None:
    old, new = spec("map", 0), spec("map", 1)
    metrics = values()
    metrics["ece15"] = {**metrics["ece15"], "version": 2}
    records = [done(old), Record(new, "done", result=result(new, metrics))]
    with pytest.raises(ConfigError) as caught:
        build(records)
    message = str(caught.value)
    assert "metric 'ece15' has 2 versions" in message
    assert f"version 1 in 1 run(s): {old.id}" in message
    assert f"version 2 in 1 run(s): {new.id}" in message
    assert message.endswith(f"bnnbench rescore {old.id}")


def test_tasks_settings_data_and_protocols_never_share_a_table() -> None:
    records = over_seeds("map", (0.1,)) + over_seeds("map", (0.1,), task="mnist")
    records += over_seeds("map", (0.1,), task_config={"n_test": 10})
    records += over_seeds("map", (0.1,), protocol={"draws": 5, "budget": 1.0})
    records += [done(spec("map", fingerprint="0123456789abcdef"))]
    titles = [table.title for table in build(records).tables]
    assert titles == [
        "digits n_test=10 draws=20",
        "digits n_test=899 draws=5 data feedc0de",
        "digits n_test=899 draws=20 data 01234567",
        "digits n_test=899 draws=20 data feedc0de",
        "mnist",
    ]


def test_rows_that_differ_in_unspoken_settings_or_base_runs_stay_apart() -> None:
    same = [done(spec("pwfn", 0, config={"epochs": epochs})) for epochs in (3, 4)]
    bases = [Record(spec("mean_field", 0, needs=(base,)), "done", result=None, lineage=base) for base in ("x", "y")]
    labels = order_of(build([*same, *bases]))
    assert len(labels) == len(set(labels)) == 4
    assert sorted(label.split(" [")[0] for label in labels) == ["mean_field", "mean_field", "pwfn", "pwfn"]


def test_a_run_whose_base_is_unknown_belongs_to_the_row_of_its_method() -> None:
    known = Record(spec("mean_field", 0, needs=("a",)), "done", result=result(spec("mean_field", 0)), lineage="x")
    unknown = Record(spec("mean_field", 1, needs=("b",)), "new", lineage=None, base_seconds=None)
    assert [row.coverage for row in build([known, unknown]).rows] == ["1/2"]


def test_seconds_with_base_stand_in_a_column_of_their_own() -> None:
    board = build([done(spec("mean_field"), base_seconds=1200.0, train_seconds=910.0)])
    row = board.rows[0]
    assert cell_text(row, "train_seconds") == "15m 10s"
    assert cell_text(row, "train_seconds.with_base") == "35m 10s"


def test_a_known_law_adds_its_columns_to_that_task_only() -> None:
    columns = {table.title: [column.name for column in table.columns] for table in build(study()).tables}
    assert columns["gaussian_mixture"][-2:] == ["excess_nll", "true_ece15"]
    assert "excess_nll" not in columns["digits"]


def test_columns_replace_the_main_table_or_are_added_to_it() -> None:
    ood = {"ood_auroc[msp].svhn": Value.ok(0.9), "ood_auroc[msp].noise": Value.ok(0.8)}
    records = over_seeds("map", (0.3,), **ood)
    own = build(records, columns=["brier", "ood_auroc[msp].svhn"]).tables[0].columns
    assert [column.name for column in own] == ["brier", "ood_auroc[msp].svhn"]
    added = build(records, columns=["+brier"]).tables[0].columns
    assert [column.name for column in added][:2] == ["accuracy", "nll"]
    assert added[-1].name == "brier"


@pytest.mark.parametrize(("argument", "name"), [("columns", "acuracy"), ("sort", "acuracy")])
def test_an_unknown_column_or_order_names_the_nearest(argument: str, name: str) -> None:
    wrong = {argument: [name] if argument == "columns" else name}
    with pytest.raises(ConfigError, match="Did you mean 'accuracy'"):
        build(study(), **wrong)


def test_latencies_of_two_devices_are_not_put_into_one_column() -> None:
    run = spec("pwfn")
    gpu = {"device": "GPU", "dtype": "float32", "threads": 1, "torch": "2.13.0", "mode": "full"}
    board = build([done(spec("map")), Record(run, "done", result=result(run, latency=gpu))], columns=["latency_ms"])
    table = board.tables[0]
    assert {cell_text(row, "latency_ms") for row in table.rows} == {"n/a"}
    assert table.notes[0].startswith("latency is not compared across devices")
    assert "GPU, float32, 1 thread, torch 2.13.0, full timing (1 runs)" in table.notes[0]
    assert cell_text(build([done(spec("map"))], columns=["latency_ms"]).rows[0], "latency_ms") == "4.20"


def test_no_runs_make_an_empty_leaderboard_that_every_view_shows() -> None:
    board = build([])
    assert as_text(board) == "No runs.\n"
    assert "No runs." in as_markdown(board)
    assert as_csv(board).count("\n") == 1
    assert as_json(board)["tables"] == []


@settings(max_examples=15, deadline=None)
@given(st.permutations(study()))
def test_the_order_of_runs_never_changes_what_is_shown(shuffled: list[Record]) -> None:
    expected, board = build(study()), build(shuffled)
    assert as_json(board) == as_json(expected)
    assert as_markdown(board, per_seed=True) == as_markdown(expected, per_seed=True)


# -- metrics that have one result per set ---------------------------------------------------------------------------

PHOTOGRAPHS, ATTACK = "ood_auroc[own].photographs", "attacked_accuracy.pgd-linf-0.0627x20"
PROTOCOL_WITH_ATTACK = {"draws": 20, "budget": 1.0, "attacks": [Attack(kind="pgd").identity()]}


def detection() -> list[Record]:
    """Two tasks, of which one has sets: a row with a score of its own and one without."""
    sets = {"ood_auroc[own].photographs": 0.91, "ood_auroc[msp].photographs": 0.8, ATTACK: 0.4}
    na = Value.na("the posterior has no score of its own")
    records = [done(spec("scored", protocol=PROTOCOL_WITH_ATTACK), **sets)]
    records.append(done(spec("plain", protocol=PROTOCOL_WITH_ATTACK), **{**sets, PHOTOGRAPHS: na}))
    none = {name: Value.na("the task has no OOD set, and the protocol no attack") for name in ("ood_auroc[own]",)}
    return [*records, done(spec("map", task="gaussian_mixture"), **none)]


def test_a_column_may_be_a_metric_on_a_set_in_every_view() -> None:
    board = build(detection(), columns=[PHOTOGRAPHS, ATTACK], sort=PHOTOGRAPHS)
    digits, _ = board.tables
    assert [(each.name, each.unit, each.direction) for each in digits.columns] == [
        (PHOTOGRAPHS, "%", "up"),
        (ATTACK, "%", "up"),
    ]
    assert [row.label for row in digits.rows] == ["scored", "plain"]
    assert [cell_text(row, PHOTOGRAPHS) for row in digits.rows] == ["91.0", "n/a"]
    assert [cell_text(row, ATTACK) for row in digits.rows] == ["40.00", "40.00"]
    assert PHOTOGRAPHS in as_text(board)
    assert "| ood\\_auroc\\[own\\].photographs % |" in as_markdown(board)
    assert f",{ATTACK},1,fraction,up,ok,0.4," in as_csv(board)
    assert as_json(board)["tables"][0]["rows"][0]["metrics"][ATTACK]["mean"] == 0.4
    assert f">{PHOTOGRAPHS} %" in as_html(board).replace("\n", "")


def test_a_table_without_the_set_says_not_applicable_and_why() -> None:
    board = build(detection(), columns=[PHOTOGRAPHS])
    (row,) = board.tables[1].rows
    assert cell_text(row, PHOTOGRAPHS) == "n/a"
    assert row.cells[PHOTOGRAPHS].reasons == ("the task has no OOD set, and the protocol no attack",)


def test_a_metric_without_its_set_stands_for_all_sets_but_cannot_be_the_order() -> None:
    (digits, _) = build(detection(), columns=["ood_auroc[own]", "ood_auroc[msp]"]).tables
    assert [each.name for each in digits.columns] == [PHOTOGRAPHS, "ood_auroc[msp].photographs"]
    with pytest.raises(ConfigError, match=r"one value per set\. Name one of: ood_auroc\[own\]\.photographs"):
        build(detection(), sort="ood_auroc[own]")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("ood_auroc[own].photograhps", PHOTOGRAPHS),
        ("ood_auroc[won].photographs", PHOTOGRAPHS),
        ("attacked_accuracy.pgd-linf-0.0627x2", ATTACK),
    ],
)
def test_an_unknown_set_or_score_is_an_error_with_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=r"column .* is unknown") as raised:
        build(detection(), columns=[name])
    assert f"Did you mean '{meant}'?" in str(raised.value)
    with pytest.raises(ConfigError, match=r"sort order .* is unknown"):
        build(detection(), sort=name)


def test_before_there_are_results_a_set_may_be_asked_for() -> None:
    new = [Record(spec("map"), "new")]
    (row,) = build(new, columns=[PHOTOGRAPHS], sort=PHOTOGRAPHS).rows
    assert cell_text(row, PHOTOGRAPHS) == "new"
    with pytest.raises(ConfigError, match=r"'ood_auroc\[owm\]\.photographs' is unknown"):
        build(new, columns=["ood_auroc[owm].photographs"])


def test_captions_and_titles_show_attacks_by_their_labels() -> None:
    board = build([*detection(), done(spec("map"))])
    assert [table.title for table in board.tables] == [
        "digits", "digits attacks=pgd-linf-0.0627x20", "gaussian_mixture",
    ]  # fmt: skip
    assert "attacks=pgd-linf-0.0627x20 budget=1.0 draws=20" in as_markdown(board).replace("\\", "")


def test_marks_of_the_runs_stand_behind_the_row_s_name_with_a_count_where_only_some_have_them():
    def marked(seed: int, marks: str) -> Record:
        run = spec("mean_field", seed)
        return Record(run, "done", result=result(run, facts={"marks": marks}))

    def label(*marks: str) -> str:
        unfinished = Record(spec("mean_field", 9), "new")
        return row_names([*(marked(seed, each) for seed, each in enumerate(marks)), unfinished])[0].label

    assert label("", "") == "mean_field"
    assert label("fixed sigma, tempered", "fixed sigma, tempered") == "mean_field [fixed sigma, tempered]"
    assert label("fixed sigma", "", "fixed sigma") == "mean_field [fixed sigma 2/3]"
    assert row_names([Record(spec("mean_field"), "new")])[0].label == "mean_field"

from experiments.point import FULL, QUICK, Experiment, Measured, Section, point
from experiments.runner import Progress, run_all
from experiments.store import Store, fingerprint

A, B = point(system="a", rate=1.0), point(system="b", rate=2.0)


def square(at, seed, scale):
    return {"figure": at.number("rate") ** 2 + seed}


def noisy(at, seed, scale):
    """Twice as much with every other seed: no interval will ever be narrow."""
    return {"figure": 1.0 + seed % 2}


def experiment(measure=square, figure=None):
    return Experiment(
        name="X",
        title="squares",
        figure=figure,
        points=lambda scale: [A, B],
        measure=measure,
        expected_s=lambda at, scale: 2.0,
        written=lambda findings: Section(text="", plots={}),
    )


def progress(folder, scale=QUICK, code="c1", **kind):
    store = Store(folder, "X", scale.name)
    return Progress(
        experiment=experiment(**kind), scale=scale, store=store, measured=store.load(code), code=code
    )


def test_what_was_measured_is_found_again(tmp_path):
    measured = Measured(point=A, seed=3, row={"x": 1.5, "y": None, "z": "w"}, wall_s=0.5, code="c1")
    Store(tmp_path, "X", "QUICK").add(measured)
    assert Store(tmp_path, "X", "QUICK").load("c1") == [measured]


def test_other_code_does_not_count_unless_asked_for(tmp_path):
    store = Store(tmp_path, "X", "QUICK")
    store.add(Measured(point=A, seed=0, row={"x": 1.0}, wall_s=0.5, code="old"))
    assert store.load("new") == []
    assert len(store.load(None)) == 1


def test_a_line_that_was_cut_off_is_none(tmp_path):
    store = Store(tmp_path, "X", "QUICK")
    store.add(Measured(point=A, seed=0, row={"x": 1.0}, wall_s=0.5, code="c1"))
    with (tmp_path / "X-QUICK.jsonl").open("a") as file:
        file.write('{"code": "c1", "poi')
    assert len(store.load("c1")) == 1


def test_the_budget_is_what_is_missing(tmp_path):
    work = progress(tmp_path, FULL)
    assert (work.budget().runs, work.budget().work_s) == (10, 20.0)


def test_a_run_goes_on_where_it_was_stopped(tmp_path):
    Store(tmp_path, "X", "QUICK").add(Measured(point=A, seed=0, row={"figure": 7.0}, wall_s=0.5, code="c1"))
    heard = []
    run_all([progress(tmp_path)], 2, lambda name, measured, left_s: heard.append((measured.point, left_s)))
    assert heard == [(B, 0.0)]
    assert {m.point: m.row["figure"] for m in progress(tmp_path).measured} == {A: 7.0, B: 4.0}


def test_a_first_impression_leaves_the_full_measurements_as_they_are(tmp_path):
    full = Measured(point=A, seed=0, row={"figure": 7.0}, wall_s=0.5, code="c1")
    Store(tmp_path, "X", FULL.name).add(full)
    run_all([progress(tmp_path, QUICK)], 1, lambda *heard: None)
    assert Store(tmp_path, "X", FULL.name).load("c1") == [full]
    assert len(progress(tmp_path, QUICK).measured) == 2


def test_seeds_are_added_until_the_interval_is_narrow_or_there_are_enough(tmp_path):
    run_all([progress(tmp_path, FULL, measure=noisy, figure="figure")], 1, lambda *heard: None)
    assert len(progress(tmp_path, FULL).measured) == 2 * FULL.seeds[1]


def test_findings_are_in_the_order_of_the_experiment(tmp_path):
    store = Store(tmp_path, "X", "QUICK")
    for at in (B, A):
        store.add(Measured(point=at, seed=0, row={"figure": 1.0}, wall_s=0.5, code="c1"))
    assert progress(tmp_path).findings().points() == [A, B]


def test_the_fingerprint_follows_every_file_that_results_depend_on(tmp_path):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "types.py").write_text("")
    price = tmp_path / "data" / "prices.yaml"
    price.write_text("a: 1")
    before = fingerprint(tmp_path)
    price.write_text("a: 2")
    assert fingerprint(tmp_path) != before

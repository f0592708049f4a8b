"""The corners are what they are called, and no solver that breaks a promise goes unseen."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.solvers import cli, stress
from benchmarks.solvers.checks import Outcome, examine
from benchmarks.solvers.instances import BOUNDS, LINEAR, ROWS, SCALES, Instance, draw
from benchmarks.solvers.references import REFERENCES, answers, ray_or_room
from mgrad.solvers import Array, DualSolution, Status, certify, solve

DRAWN = [draw(1, index) for index in range(400)]
ROUNDED = 1e-12


def of(group: str, name: str) -> list[Instance]:
    """Return the instances of a corner that were drawn, at least one."""
    found = [instance for instance in DRAWN if instance.corners[group] == name]
    assert found, name
    return found


def units(instance: Instance) -> Array:
    """Return the rows at length 1, those that are 0 as they are."""
    lengths = np.linalg.norm(instance.rows, axis=1, keepdims=True)
    return np.asarray(instance.rows / np.where(lengths > 0, lengths, 1.0))


# ---------------------------------------------------------------- instances


def test_instance_can_be_drawn_alone() -> None:
    for index in (0, 7, 399):
        again = draw(1, index)
        np.testing.assert_array_equal(again.gramian, DRAWN[index].gramian)
        np.testing.assert_array_equal(again.linear, DRAWN[index].linear)
        assert (again.corners, again.bound) == (DRAWN[index].corners, DRAWN[index].bound)
    assert not np.array_equal(draw(2, 7).linear, DRAWN[7].linear)
    assert {draw(0, index, [3, 4]).size for index in range(20)} == {3, 4}


def test_every_corner_and_size_is_drawn() -> None:
    for group, names in {"rows": [*ROWS], "scale": [*SCALES], "linear term": [*LINEAR], "domain": [*BOUNDS]}.items():
        assert {instance.corners[group] for instance in DRAWN} >= set(names)
    sizes = [instance.size for instance in DRAWN]
    assert min(sizes) == 1
    assert max(sizes) > 100
    assert np.median(sizes) < 20
    assert all(np.isfinite(instance.gramian).all() and np.isfinite(instance.linear).all() for instance in DRAWN)


@pytest.mark.parametrize(
    ("name", "holds"),
    [
        ("n > m", lambda J: J.shape[1] > len(J)),
        ("n = m", lambda J: J.shape[1] == len(J)),
        ("n < m", lambda J: J.shape[1] < len(J) or len(J) == 1),
        ("zero rows", lambda J: not J.any(axis=1).all()),
        ("rank 1", lambda J: np.linalg.matrix_rank(J) <= 1),
        ("rank < m", lambda J: np.linalg.matrix_rank(J) < len(J) or len(J) == 1),
        ("agreeing", lambda J: (J @ J.T).min() >= -ROUNDED),
        ("conflicting", lambda J: len(J) == 1 or np.linalg.norm(J.mean(axis=0)) < np.linalg.norm(J, axis=1).max() / 2),
    ],
)
def test_rows_are_what_they_are_called(name: str, holds: Callable[[Array], bool]) -> None:
    assert all(holds(units(instance)) for instance in of("rows", name))


@pytest.mark.parametrize("name", ["opposite", "nearly opposite", "duplicated", "nearly equal"])
def test_copies_are_copies(name: str) -> None:
    sign = -1 if "opposite" in name else 1
    cosines = [sign * units(instance) @ units(instance).T for instance in of("rows", name) if instance.size > 2]
    largest = [float(cosine[~np.eye(len(cosine), dtype=bool)].max()) for cosine in cosines]
    assert np.mean([value > 1 - 1e-4 for value in largest]) > 0.5  # a row may have been copied onto itself


@pytest.mark.parametrize(("name", "distance"), [("stationary", 1e-7), ("nearly stationary", 0.05)])
def test_stationary_rows_are_stationary(name: str, distance: float) -> None:
    for instance in of("rows", name):
        J = units(instance)
        if instance.size > 1 and J.any(axis=1).all():
            a = solve(J @ J.T, domain="simplex").multipliers
            assert np.linalg.norm(a @ J) <= distance


def test_scales_reach_both_ends() -> None:
    lengths = np.concatenate([instance.lengths for instance in of("scale", "10^±12, each")])
    assert lengths.max() > 1e11
    assert lengths[lengths > 0].min() < 1e-11


def test_what_can_be_met_is_called_feasible_and_is() -> None:
    checked = 0
    for instance in DRAWN:
        if instance.feasible and instance.size <= 16 and instance.lengths.all():
            J = instance.rows / instance.lengths[:, None]
            slope = instance.linear / instance.lengths
            plain = replace(instance, rows=J, gramian=J @ J.T, linear=slope / (np.abs(slope).max() or 1.0))
            assert ray_or_room(plain) != "ray"
            checked += 1
    assert checked > 30


# ---------------------------------------------------------------- solvers that break a promise


def planted(change: Callable[[DualSolution, dict[str, Any]], DualSolution]) -> Callable[..., DualSolution]:
    """Return a solver whose answers are changed and then certified truly."""

    def solver(gramian: Array, linear: Array, **options: Any) -> DualSolution:
        kept = {name: value for name, value in options.items() if name in {"domain", "bound", "linear_error"}}
        changed = change(solve(gramian, linear, **kept), options)
        stated = {name: options.get(name) for name in ("domain", "bound", "linear_error")}
        if not np.isfinite(changed.multipliers).all():
            return changed
        found = certify(gramian, linear, changed.multipliers, **stated)
        return changed._replace(**found._asdict())

    return solver


def broken(solver: Callable[..., DualSolution], instances: int = 60) -> str:
    """Return all violations of a solver on some instances, in one text."""
    return "\n".join(text for instance in DRAWN[:instances] for text in examine(instance, solver).violations)


def test_the_solver_itself_breaks_none() -> None:
    assert broken(solve) == ""
    assert broken(planted(lambda found, _: found)) == ""


def test_a_solver_that_raises_is_seen() -> None:
    def solver(*_: Any, **__: Any) -> DualSolution:
        raise np.linalg.LinAlgError("singular matrix")

    outcome = examine(DRAWN[0], solver)
    assert outcome.status == "raised"
    assert outcome.violations == ["raised LinAlgError: singular matrix"]


def test_a_solver_that_warns_is_seen() -> None:
    def solver(gramian: Array, linear: Array, **options: Any) -> DualSolution:
        np.float64(1.0) / np.float64(0.0)
        return solve(gramian, linear, **options)

    assert "raised RuntimeWarning: divide by zero" in broken(solver, 1)


def test_an_answer_that_is_not_a_number_is_seen() -> None:
    spoil = planted(lambda found, _: found._replace(multipliers=found.multipliers * np.nan))
    assert broken(spoil).count("not all finite") == 60


@pytest.mark.parametrize("error", [1e-3, 1e-9])
def test_a_slightly_wrong_answer_is_seen(error: float) -> None:
    def change(found: DualSolution, _: dict[str, Any]) -> DualSolution:
        x = found.multipliers.copy()
        x[np.argmax(x)] *= 1 - error
        return found._replace(multipliers=x)

    assert "with duality gap" in broken(planted(change))


def test_an_answer_outside_the_domain_is_seen() -> None:
    below = planted(lambda found, _: found._replace(multipliers=found.multipliers - found.multipliers.max() / 8))
    assert "outside of the domain" in broken(below)


def test_an_answer_that_leaves_a_requirement_unmet_is_seen() -> None:
    # x = 0 has no duality gap of its own.
    nothing = planted(lambda found, _: found._replace(multipliers=0 * found.multipliers, status=Status.OPTIMAL))
    assert "OPTIMAL with primal residual" in broken(nothing)


def test_a_certificate_that_lies_is_seen() -> None:
    def solver(gramian: Array, linear: Array, **options: Any) -> DualSolution:
        return solve(gramian, linear, **options)._replace(duality_gap=0.125)

    assert "the certificate says" in broken(solver, 1)


def test_problems_that_are_not_unbounded_are_not_called_so() -> None:
    found = broken(planted(lambda found, _: found._replace(status=Status.UNBOUNDED)), 400)
    assert "UNBOUNDED on a bounded domain" in found
    assert "UNBOUNDED, though q asks nothing impossible" in found
    assert "UNBOUNDED, but a direction meets every requirement" in found


def test_an_answer_that_changes_with_the_order_of_the_rows_is_seen() -> None:
    # Right on its own: another problem's answer, where the rows do not come as they were drawn.
    drawn = {instance.gramian.tobytes() for instance in DRAWN}

    def solver(gramian: Array, linear: Array, **options: Any) -> DualSolution:
        if gramian.tobytes() in drawn or options["bound"] == 0:
            return solve(gramian, linear, **options)
        return solve(gramian, 0.5 * linear + np.diagonal(gramian), **options)

    found = broken(solver, 100)
    assert "in another order: the objective differs" in found
    assert "scaled: the objective differs" in found


def test_references_would_see_a_wrong_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(*_: Any, **__: Any) -> Any:
        return certify([[1.0]], [0.0], [0.0])

    monkeypatch.setattr("benchmarks.solvers.checks.certify", blind)

    def solver(gramian: Array, linear: Array, **options: Any) -> DualSolution:
        found = solve(gramian, linear, **options)
        worse = np.eye(len(linear))[np.argmax(np.diagonal(gramian))]
        if options["domain"] == "simplex":
            found = found._replace(multipliers=worse)
        return found._replace(**blind()._asdict())

    found = broken(solver, 400)
    for name in REFERENCES:
        assert f"{name} is better by" in found


@pytest.mark.parametrize("method", ["frank_wolfe", "plain_frank_wolfe"])
def test_frank_wolfe_short_of_the_gap_that_was_asked_for_is_seen(method: str) -> None:
    def change(found: DualSolution, options: dict[str, Any]) -> DualSolution:
        if options.get("method") == method:
            x = found.multipliers
            x = np.full(len(x), 1 / len(x)) if options["domain"] == "simplex" else 0.5 * x
            return found._replace(multipliers=x)
        return found

    assert f"{method} to 1e-" in broken(planted(change), 200)


def test_a_start_that_spoils_the_answer_is_seen() -> None:
    def change(found: DualSolution, options: dict[str, Any]) -> DualSolution:
        return found._replace(multipliers=0.5 * found.multipliers) if "start" in options else found

    assert "warm: " in broken(planted(change))


# ---------------------------------------------------------------- references and the run


def test_references_are_points_of_the_domain_and_find_the_optimum_of_easy_problems() -> None:
    for domain, bound in (("nonnegative", None), ("nonnegative", 0.5), ("simplex", None)):
        J = np.random.default_rng(3).standard_normal((4, 6))
        q = np.zeros(4) if domain == "simplex" else J @ np.ones(6) - 2
        easy = replace(DRAWN[0], rows=J, gramian=J @ J.T, linear=q, domain=domain, bound=bound)  # type: ignore[arg-type]
        ours = solve(J @ J.T, q, domain=domain, bound=bound).multipliers
        found = dict(answers(easy))
        assert set(found) >= {"all subsets (m ≤ 6)", "DAQP", "quadprog"}
        for y in found.values():
            assert isinstance(y, np.ndarray)
            assert certify(J @ J.T, q, y, domain=domain, bound=bound).dual_residual <= ROUNDED
            np.testing.assert_allclose(y, ours, atol=1e-9)


def test_rays_and_room_are_told_apart() -> None:
    opposite = replace(DRAWN[0], rows=np.array([[1.0], [-1.0]]), gramian=np.array([[1.0, -1.0], [-1.0, 1.0]]))
    assert ray_or_room(replace(opposite, linear=np.array([-1.0, -1.0]))) == "ray"
    assert ray_or_room(replace(opposite, linear=np.array([1.0, 1.0]))) == "room"
    assert ray_or_room(replace(opposite, linear=np.array([-1.0, 1.0]))) == "undecided"


def test_summary_drops_nothing() -> None:
    corners = {"rows": "rank 1", "domain": "simplex"}
    found = stress.summary(
        [
            Outcome(5, corners, 3, "OPTIMAL", gap=1e-14, seconds=0.002),
            Outcome(2, corners, 70, "INACCURATE", gap=1.0, seconds=0.001, remarks=["INACCURATE"]),
            Outcome(3, {**corners, "rows": "n > m"}, 3, violations=["raised A", "raised B"]),
        ]
    )
    assert found["all"]["statuses"] == {"OPTIMAL": 1, "INACCURATE": 1, "raised": 1}
    assert (found["all"]["instances"], found["all"]["violated"]) == (3, 1)
    assert (found["all"]["worst_gap"], found["all"]["slowest"]) == (1e-14, 5)
    assert found["corners"]["rows"]["rank 1"]["instances"] == 2
    assert list(found["corners"]["m"]) == ["2–4", "65–128"]
    assert found["remarks"] == {"INACCURATE": {"instances": 1, "first": [2]}}
    assert [violation["violation"] for violation in found["violations"]] == ["raised A", "raised B"]
    assert found["violations"][0]["index"] == 3


def test_command_writes_every_instance_and_shows_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "stress.json"
    cli.main(["--stress", "--instances", "150", "--out", str(path)])  # in two processes
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["violations"] == []
    assert record["all"]["instances"] == 150
    assert all(sum(c["instances"] for c in group.values()) == 150 for group in record["corners"].values())
    alone = stress.summary(stress.run(0, 150, [], 1))
    assert alone["all"]["statuses"] == record["all"]["statuses"]
    capsys.readouterr()
    cli.main(["--stress", "--only", "7"])
    shown = capsys.readouterr().out
    assert "gramian=" in shown
    assert f"status='{stress.outcome(7, 0).status}'" in shown


def test_command_fails_and_names_the_instance_where_a_promise_is_broken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stress, "solve", planted(lambda found, _: found._replace(multipliers=0 * found.multipliers)))
    with pytest.raises(SystemExit) as ended:
        cli.main(["--stress", "--instances", "20", "--processes", "1", "--out", str(tmp_path / "stress.json")])
    assert ended.value.code == 1
    assert "violated: {'index': " in capsys.readouterr().err
    assert json.loads((tmp_path / "stress.json").read_text(encoding="utf-8"))["violations"]

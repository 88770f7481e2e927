"""The solver on problems with known solutions."""

import numpy as np
import pytest

from tf_lars.planner.least_squares import covariance, solve


def test_a_linear_problem_is_solved_exactly_with_its_covariance():
    random = np.random.default_rng(0)
    a, y = random.normal(size=(20, 3)), random.normal(size=20)
    expected = np.linalg.lstsq(a, y, rcond=None)[0]
    x = solve(lambda x: a @ x - y, np.zeros(3))
    np.testing.assert_allclose(x, expected, atol=1e-7)
    np.testing.assert_allclose(
        covariance(lambda x: a @ x - y, x), np.linalg.inv(a.T @ a), rtol=1e-4
    )


def test_a_curved_problem_is_solved_from_afar():
    t = np.linspace(0, 4, 30)
    y = 3 * np.exp(-0.7 * t) + 0.5
    x = solve(lambda x: x[0] * np.exp(-x[1] * t) + x[2] - y, np.array([1.0, 3.0, 0.0]))
    np.testing.assert_allclose(x, [3, 0.7, 0.5], rtol=1e-6)


def test_a_step_into_infinity_is_taken_back():
    x = solve(lambda x: np.exp(x) - 1e-3, np.array([300.0]), iterations=500)
    assert x[0] == pytest.approx(np.log(1e-3), rel=1e-6)


def test_an_outlier_bends_a_robust_fit_by_no_more_than_the_threshold():
    y = np.array([1.0, 1.1, 0.9, 1.0, 1e6])
    plain = solve(lambda x: x[0] - y, np.zeros(1))
    robust = solve(lambda x: (x[0] - y) / 0.1, np.zeros(1), robust=5, threshold=2.0)
    assert plain[0] == pytest.approx(y.mean())
    # Four residuals balance one that pulls with the threshold: 4 (x - 1) / 0.1 = 2.
    assert robust[0] == pytest.approx(1.05, rel=1e-4)


def test_a_bound_holds_and_the_others_settle_as_if_it_were_fixed():
    random = np.random.default_rng(1)
    a = random.normal(size=(30, 3))
    y = a @ [2.0, -1.0, 0.5]
    x = solve(lambda x: a @ x - y, np.ones(3), lower=np.array([-np.inf, 0.0, -np.inf]))
    expected = np.linalg.lstsq(a[:, [0, 2]], y, rcond=None)[0]
    np.testing.assert_allclose(x, [expected[0], 0.0, expected[1]], atol=1e-7)
    free = solve(lambda x: a @ x - y, np.zeros(3), lower=-5.0)
    np.testing.assert_allclose(free, [2.0, -1.0, 0.5], atol=1e-7)

"""An engine that does not work on a machine is replaced by name, unless it was asked for."""

from dataclasses import replace

import pytest

from science.robots.engine import EngineError
from science.robots.tasks.base import EXACT, ROBOSUITE
from science.robots.tasks.engines import make_simulation
from science.robots.tasks.registry import find_task


def refuses_exact(engine):
    if engine == EXACT:
        raise EngineError("found another BLAS, expected one that gives the same bits")
    return f"a simulation on {engine}"


TASK = replace(find_task("open.Lift"), make=refuses_exact, engines=(EXACT, ROBOSUITE))


def test_the_next_engine_is_taken_and_the_log_says_why(caplog):
    assert make_simulation(TASK) == "a simulation on robosuite"
    assert "engine exact cannot run open.Lift here: found another BLAS" in caplog.text


def test_an_engine_that_was_asked_for_is_never_replaced():
    with pytest.raises(EngineError, match="another BLAS"):
        make_simulation(TASK, EXACT)


@pytest.mark.parametrize("name", ["Lift", "Stack_D0", "Stack_D1", "StackThree_D0", "StackThree_D1"])
def test_every_open_task_prefers_the_exact_engine(name):
    assert find_task(f"open.{name}").engines == (EXACT, ROBOSUITE)

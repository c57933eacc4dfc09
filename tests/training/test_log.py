"""Rows survive a torn line; progress shows what it is asked to."""

import pytest

from tensorlm.training.folder import LOG_COLUMNS, append_row, read_log, start_log
from tensorlm.training.loop import progress_for


def row(step, **values):
    return {**dict.fromkeys(LOG_COLUMNS), "step": step, "tokens": step * 64, "loss": 1 / 3, "skipped": 0,
            "seconds": 0.5 * step, "tokens_per_second": 128.0, **values}


def test_rows_come_back_exactly_and_a_torn_line_is_left_out(tmp_path):
    log = tmp_path / "log.csv"
    start_log(log)
    rows = [row(1), row(2, loss=0.1 + 0.2, grad_norm=float("inf"))]
    for each in rows:
        append_row(log, each)
    with open(log, "a") as file:
        file.write("3,192,0.1")
    assert read_log(log) == rows


def test_rows_after_the_checkpoint_are_dropped(tmp_path):
    log = tmp_path / "log.csv"
    start_log(log)
    for step in (1, 2, 3):
        append_row(log, row(step))
    start_log(log, keep_until=2)
    append_row(log, row(3, loss=9.0))
    assert [(r["step"], r["loss"]) for r in read_log(log)] == [(1, 1 / 3), (2, 1 / 3), (3, 9.0)]


def test_progress_in_its_kinds(capsys):
    progress_for(4, None)(row(2))
    assert capsys.readouterr() == ("", "")
    progress_for(4, "auto")(row(2, loss_valid=1.5, skipped=3))
    assert capsys.readouterr().out == "step 2/4  loss 0.3333  held-out 1.5000  128 tokens/s  skipped 3  0:00:01 left\n"
    show = progress_for(4, "bar", done=2)
    show(row(3)), show(row(4))
    assert "4/4" in (said := capsys.readouterr().err) and "loss 0.3333" in said and "0/4" not in said
    with pytest.raises(ValueError, match="progress must be .*, got 'loud'"):
        progress_for(4, "loud")

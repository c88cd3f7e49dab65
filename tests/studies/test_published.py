"""The published tables: every computed column from the printed ones, and what is known of them from elsewhere."""

import numpy as np
import pytest

from studies import published
from studies.study import column

SOURCES = {"COMP 691 A1 notebook (2023)", "NYU Deep Learning HW1"}


def numbers(name, *columns):
    rows = published.table(name)
    return [np.array(column(rows, one)) for one in columns]


def test_each_table_names_its_source():
    paths = sorted(published.DIRECTORY.glob("*.csv"))
    assert len(paths) == 14
    for path in paths:
        rows = published.table(path.stem)
        assert next(iter(rows[0])) == "source", path
        assert {row["source"] for row in rows} <= SOURCES, path
    with pytest.raises(ValueError, match=r"nothing\.csv: cannot be read .*restore the published tables"):
        published.table("nothing")


def test_means_over_batches_follow_from_the_printed_sums():
    train, test, train_mean, test_mean, before, after = numbers(
        "fashion_mnist_training",
        *("train_loss_sum", "test_loss_sum", "train_loss_mean", "test_loss_mean", "updates_before_test", "updates_after_train"),
    )
    np.testing.assert_allclose(train / 938, train_mean, atol=6e-7)
    np.testing.assert_allclose(test / 157, test_mean, atol=6e-7)
    assert (before == 938 * np.arange(24)).all()
    assert (after == 938 * np.arange(1, 25)).all()


def test_values_of_an_epoch_follow_from_the_printed_running_means():
    epoch, bound_of_losses, bound_of_shares = numbers(
        "initialisation_training", "epoch", "loss_rounding_bound", "accuracy_percent_rounding_bound"
    )
    for name, bound in [("train_loss", bound_of_losses), ("test_loss", bound_of_losses)] + [
        (f"{part}_accuracy_percent", bound_of_shares) for part in ("train", "test")
    ]:
        so_far, own = numbers("initialisation_training", f"mean_{name}_so_far", f"{name}_of_epoch")
        before = np.where(epoch > 1, np.roll(so_far, 1), 0)
        np.testing.assert_array_less(abs(epoch * so_far - (epoch - 1) * before - own), bound + 1e-9)


def test_means_of_losses_are_sums_of_single_precision_numbers():
    """The numbers of batches, 162, 33 and 162, are not printed: with these each sum is what float32 numbers add up to."""
    for name, batches in (("train_mse", 162), ("validation_mse", 33), ("test_mse", 162)):
        (means,) = numbers("regression_training", name)
        scaled = means * batches * 2**27
        np.testing.assert_allclose(scaled, scaled.round(), atol=1e-3)


def test_published_weights_and_shares():
    weights = published.table("piecewise_published_weights")
    for number in (1, 2):
        x, values = numbers(f"piecewise_data_{number}", "x", "published_network_value")
        own = [row for row in weights if row["data"] == str(number)]
        w, b, out = (np.array(column(own, name))[:, None] for name in ("hidden_weight", "hidden_bias", "output_weight"))
        np.testing.assert_array_equal((out * np.maximum(w * x + b, 0)).sum(0), values)
    right, count, share = numbers("numpy_network_accuracy", "test_correct", "test_samples", "test_accuracy_percent")
    np.testing.assert_allclose(100 * right / count, share, atol=1e-9)

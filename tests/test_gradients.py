"""The primitive, against numbers worked out by hand. Runs on every backend."""

import keras
import numpy as np
import pytest
from autodiff import gradients
from keras import ops

from keras_sg.gradients import REGRESSIONS, replace_gradient

# Two examples of two features. The loss is the mean over the batch of sum(a * h), so that
#   delta = dL/dh = a / 2                      what arrives at the interface
#   t     = delta * B / s = (a / 2) * 2 / 1 = a    the target, per example
# The prediction g misses it by
#   g - t = [[1, 0], [-2, 4]]
A = np.array([[1.0, 2.0], [3.0, -4.0]], "float32")
G = np.array([[2.0, 2.0], [1.0, 0.0]], "float32")
ERROR = np.array([[1.0, 0.0], [-2.0, 4.0]], "float32")
H = np.array([[0.5, -1.0], [2.0, 0.25]], "float32")


def received(scale=1.0, anchored=True, **options):
    """What `h` and the synthetic gradient receive, the loss being multiplied by `scale`."""

    def loss(h, synthetic):
        h, anchor = replace_gradient(h, synthetic, **options)
        return scale * (ops.sum(ops.multiply(A, h)) / 2 + (anchor if anchored else 0.0))

    return gradients(loss, H, G)


def test_forward_is_the_identity():
    h, anchor = replace_gradient(ops.convert_to_tensor(H), ops.convert_to_tensor(G))
    np.testing.assert_array_equal(ops.convert_to_numpy(h), H)
    assert anchor.shape == () and float(anchor) == 0.0


def test_by_hand():
    to_h, to_synthetic = received()
    # to h: s / B * g = g / 2
    np.testing.assert_allclose(to_h, [[1.0, 1.0], [0.5, 0.0]])
    # to g: derivative of the mean over 4 elements of (g - t)^2, 2 * (g - t) / 4
    np.testing.assert_allclose(to_synthetic, [[0.5, 0.0], [-1.0, 2.0]])


@pytest.mark.parametrize(
    "loss, expected",
    [
        ("mse", 2 * ERROR / 4),
        ("mae", [[0.25, 0.0], [-0.25, 0.25]]),  # sign / 4
        ("huber", [[0.25, 0.0], [-0.25, 0.25]]),  # clip(error, -1, 1) / 4
    ],
)
def test_regression_losses(loss, expected):
    np.testing.assert_allclose(received(loss=loss)[1], expected)


@pytest.mark.parametrize("loss", sorted(REGRESSIONS))
def test_derivatives_are_those_of_the_values(loss):
    rng = np.random.default_rng(0)
    prediction, target = rng.normal(scale=2, size=(2, 5, 3)).astype("float32")
    value = lambda p: REGRESSIONS[loss].value(p, ops.convert_to_tensor(target))
    by_autodiff = gradients(value, prediction)[0]
    derivative = ops.convert_to_numpy(REGRESSIONS[loss].derivative(prediction, target))
    np.testing.assert_allclose(derivative / prediction.size, by_autodiff, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("scale", [0.5, 1024.0])
def test_everything_is_scaled_as_the_loss_is(scale):
    for plain, scaled in zip(received(), received(scale=scale)):
        np.testing.assert_allclose(scaled, scale * plain)


def test_without_the_anchor_the_scale_is_one():
    for with_anchor, without in zip(received(), received(anchored=False)):
        np.testing.assert_allclose(without, with_anchor)


def test_mix():
    np.testing.assert_allclose(received(mix=0.0)[0], A / 2)
    # 0.25 * g / 2 + 0.75 * t / 2
    np.testing.assert_allclose(received(mix=0.25)[0], 0.125 * G + 0.375 * A)
    np.testing.assert_allclose(received(mix=0.25)[1], received()[1])


def test_per_example_targets_do_not_depend_on_the_batch():
    def to_synthetic(copies):
        h, g, a = (np.tile(x, (copies, 1)) for x in (H, G, A))

        def loss(h, synthetic):
            h, anchor = replace_gradient(h, synthetic)
            return ops.sum(ops.multiply(a, h)) / len(a) + anchor

        return gradients(loss, h, g)[1] * g.size

    np.testing.assert_allclose(to_synthetic(3)[:2], to_synthetic(1))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_gradients_have_the_dtype_of_their_tensors(dtype):
    if dtype == "float64" and keras.backend.backend() == "jax":
        pytest.skip("JAX computes in float32 unless told otherwise")
    seen = []

    def loss(h, synthetic):
        h, anchor = replace_gradient(ops.cast(h, dtype), synthetic)
        seen.append((keras.backend.standardize_dtype(h.dtype), keras.backend.standardize_dtype(anchor.dtype)))
        return ops.cast(ops.sum(ops.multiply(ops.cast(A, dtype), h)) / 2, "float32") + anchor

    to_h, to_synthetic = gradients(loss, H, ops.cast(G, dtype))
    assert seen[0] == (dtype, "float32")
    np.testing.assert_allclose(to_h, [[1.0, 1.0], [0.5, 0.0]])
    np.testing.assert_allclose(to_synthetic.astype("float32"), [[0.5, 0.0], [-1.0, 2.0]])


def test_rank_4():
    h = np.ones((2, 3, 3, 4), "float32")

    def loss(h, synthetic):
        h, anchor = replace_gradient(h, synthetic)
        return ops.sum(h) / 2 + anchor

    to_h, to_synthetic = gradients(loss, h, np.zeros_like(h))
    assert not to_h.any()
    np.testing.assert_allclose(to_synthetic, np.full(h.shape, -2.0 / h.size), rtol=1e-6)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_at_mix_zero_no_prediction_reaches_the_module(as_tensor):
    """Not even one that is not finite."""

    def loss(h, synthetic):
        mix = ops.convert_to_tensor(0.0, "float32") if as_tensor else 0.0
        h, anchor = replace_gradient(h, synthetic, mix=mix)
        return ops.sum(ops.multiply(A, h)) / 2 + anchor

    to_h, _ = gradients(loss, H, np.full_like(G, np.inf))
    np.testing.assert_allclose(to_h, A / 2)

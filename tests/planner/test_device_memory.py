"""Whether a batch fits into the memory of a device, by compiled steps."""

import dataclasses
import re

import pytest

from tests.planner.test_compiled_steps import KNOWN
from tf_lars.errors import InputError
from tf_lars.planner import compiled_steps
from tf_lars.planner.device_memory import DeviceMemory

GIB = 2**30
GRADIENTS = GIB // 4
NAME = "small_resnet8 at 32 px"
STEP = dataclasses.replace(
    KNOWN, micro_batch_size=None, device_bytes=16 * GIB, gradient_bytes=GRADIENTS
)


def _step(batch, peak, **more):
    """Returns a step of a batch, which needs `peak` GiB."""
    fits = peak <= 16
    return dataclasses.replace(
        STEP, per_replica_batch_size=batch, peak_bytes=int(peak * GIB), fits=fits, **more
    )


def _memory(*steps, **more):
    chosen = {"model": NAME, "accelerator": "H100-SXM", **more}
    return DeviceMemory.of(steps, **chosen)


LINEAR = (_step(32, 3), _step(64, 5), _step(128, 9))


@pytest.mark.parametrize(
    ("images", "gib"), [(32, 3), (48, 4), (64, 5), (96, 7), (128, 9), (256, 17), (16, 2), (8, 1.5)]
)
def test_memory_is_interpolated_and_continued(images, gib):
    memory = _memory(*LINEAR)
    assert memory.needed(images) == pytest.approx(gib * GIB)
    assert memory.needed(images, in_parts=True) == pytest.approx(gib * GIB + GRADIENTS)
    assert memory.fits(images) == (gib <= 16)


def test_between_two_batches_their_own_slope_counts():
    memory = _memory(_step(32, 3), _step(64, 4), _step(128, 12))
    assert memory.needed(16) == pytest.approx(2.5 * GIB)
    assert memory.needed(80) == pytest.approx(6 * GIB)
    assert memory.needed(144) == pytest.approx(14 * GIB)


def test_of_one_step_the_arguments_do_not_grow():
    memory = _memory(_step(64, 5, argument_bytes=GIB))
    assert memory.needed(32) == pytest.approx(3 * GIB)
    assert memory.needed(128) == pytest.approx(9 * GIB)


def test_the_largest_power_of_two_that_fits():
    assert _memory(*LINEAR).largest() == 128  # 256 images need 17 GiB
    roomy = [dataclasses.replace(step, device_bytes=17 * GIB) for step in LINEAR]
    assert _memory(*roomy).largest() == 256
    assert _memory(*roomy).largest(in_parts=True) == 128  # the gradients are the rest
    tiny = [dataclasses.replace(step, device_bytes=GIB, fits=False) for step in LINEAR]
    assert _memory(*tiny).largest() == 0


def test_what_fits_is_told():
    memory = _memory(*LINEAR)
    assert memory.check(64) == (
        "5 of 16 GiB for 64 images at a time on h100_sxm, by XLA's count, without the "
        "workspace of libraries"
    )
    assert "5.25 of 16 GiB for 64 images at a time" in memory.check(4096, 64)
    # A micro-batch that is the whole share is none.
    assert memory.check(64, 64) == memory.check(64, 128) == memory.check(64)


@pytest.mark.parametrize("micro", [None, 256, 4096])
def test_what_does_not_fit_is_refused_with_a_micro_batch_that_does(micro):
    memory = _memory(*LINEAR)
    with pytest.raises(InputError, match="must fit into its memory") as caught:
        memory.check(1024, micro)
    assert len(str(caught.value).splitlines()) == 1
    [named] = re.findall(r"Use --micro_batch_size=(\d+), which fits", str(caught.value))
    assert memory.check(1024, int(named))
    with pytest.raises(InputError):
        memory.check(1024, 2 * int(named))


@pytest.mark.parametrize(("images", "micro"), [(384, 192), (300, 150), (1000, 200), (251, 1)])
def test_the_micro_batch_divides_the_share_of_a_device(images, micro):
    with pytest.raises(InputError, match=f"Use --micro_batch_size={micro}, which fits"):
        _memory(*LINEAR).check(images)


def test_what_cannot_fit_names_no_micro_batch():
    tiny = [dataclasses.replace(step, device_bytes=GIB, fits=False) for step in LINEAR]
    with pytest.raises(InputError, match="Use smaller images, a smaller model or a device"):
        _memory(*tiny).check(64)


def test_a_share_just_above_the_limit_is_not_told_to_use_all_of_itself():
    # The micro-batch must be smaller than the share, or it would be none.
    memory = _memory(*LINEAR)
    for images in range(240, 300):
        try:
            memory.check(images)
        except InputError as error:
            [named] = re.findall(r"--micro_batch_size=(\d+)", str(error))
            assert int(named) < images


def test_steps_of_other_runs_are_left_out():
    others = (
        _step(32, 1, model="resnet50"),
        _step(32, 1, image_size=64),
        _step(32, 1, accelerator="A100-SXM"),
        _step(32, 1, precision="float32"),
        _step(32, 1, micro_batch_size=8),
        dataclasses.replace(_step(32, 1), peak_bytes=None, fits=False),
    )
    assert _memory(*others) is None
    assert _memory() is None
    assert _memory(*LINEAR, *others).steps == LINEAR
    assert _memory(*LINEAR, precision="float16").steps == LINEAR
    assert _memory(*others, precision="float32").steps == (others[3],)


def test_of_several_targets_the_one_with_the_most_memory_is_taken():
    larger = _step(32, 4, target="h100_large:8", device_bytes=32 * GIB)
    memory = _memory(larger, *LINEAR)
    assert (memory.target, memory.device_bytes) == ("h100_large", 32 * GIB)
    assert _memory(larger, *LINEAR, target="h100_sxm").steps == LINEAR
    assert _memory(larger, *LINEAR, target="l4") is None


def test_later_steps_take_precedence_and_order_does_not_matter():
    again = _step(64, 6)
    assert _memory(*reversed(LINEAR), again).steps == (LINEAR[0], again, LINEAR[2])


def test_steps_that_do_not_fit_are_left_out_beside_two_that_do():
    beyond = _step(4096, 100)  # where the compiler saves memory
    assert _memory(*LINEAR, beyond).steps == LINEAR
    assert _memory(LINEAR[0], beyond).steps == (LINEAR[0], beyond)


def test_the_packaged_steps_agree_with_each_other():
    steps = compiled_steps.packaged()
    for step in steps:
        memory = DeviceMemory.of(
            steps,
            model=step.model,
            accelerator=step.accelerator,
            precision=step.precision,
            target=step.target.partition(":")[0],
        )
        if step.micro_batch_size is None and step.fits:
            assert memory.needed(step.per_replica_batch_size) == step.peak_bytes
        assert memory.fits(step.per_replica_batch_size) == step.fits

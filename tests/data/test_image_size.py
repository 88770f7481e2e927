"""Image sizes that change from epoch to epoch."""

import pytest

from tf_lars.data.image_size import ImageSizeSchedule
from tf_lars.errors import InputError


def test_a_schedule_says_the_size_of_each_epoch_and_is_written_as_it_is_read():
    schedule = ImageSizeSchedule.parse("0:128,18:160,32:224")
    assert [schedule.size(epoch) for epoch in (0, 17, 18, 31, 32, 99)] == [
        *(128, 128, 160),
        *(160, 224, 224),
    ]
    assert str(schedule) == "0:128,18:160,32:224"


@pytest.mark.parametrize("text", ["", "128", "0:128,9", "1:128", "0:128,5:160,5:224", "0:0", "0:a"])
def test_another_text_is_refused(text):
    with pytest.raises(InputError, match="such as 0:128,18:160,32:224"):
        ImageSizeSchedule.parse(text)

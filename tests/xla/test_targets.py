"""The targets: all can be formed, and their numbers are the published ones."""

import re

import pytest

from tests.helpers import facts
from tf_lars.errors import InputError
from tf_lars.packaged_csv import rows
from tf_lars.planner import devices
from tf_lars.xla import targets
from tf_lars.xla.targets import target

GPUS = [row["target"] for row in rows("tf_lars.xla", "gpus.csv")]
TPUS = [row["target"] for row in rows("tf_lars.xla", "tpus.csv")]
H100 = facts.FOLDER / "targets" / "h100_sxm.txtpb"


@pytest.mark.parametrize("name", [*GPUS, *TPUS])
def test_every_target_is_formed(name):
    one = target(name)
    assert one.name.startswith(f"{name}:")
    assert target(one.name) == one
    assert one.platform == ("cuda" if name in GPUS else "tpu")
    assert one.num_devices in (4, 8)
    assert 4 * 2**30 < one.memory_bytes < 2**38
    assert 1e11 < one.memory_bandwidth < 1e13
    assert 1e13 < one.peak_flops < 1e16
    assert one.source
    # The planner's data sheet is that of one device of the family.
    sheet = devices.memory_bandwidth(one.accelerator)
    chips = 2 if name in ("v2", "v3", "v4") else 1
    assert one.memory_bandwidth == pytest.approx(sheet / chips, rel=0.3)


def test_no_name_is_of_a_gpu_and_a_tpu():
    assert len({*GPUS, *TPUS}) == len(GPUS) + len(TPUS)
    listed = [row["target"].partition(":")[0] for row in targets.table()]
    assert listed == [*GPUS, *TPUS]


@pytest.mark.parametrize(
    ("text", "topology", "count"),
    [
        ("h100_sxm", "1x1x8", 8),
        ("h100_sxm:8", "1x1x8", 8),
        ("h100_sxm:1", "1x1x1", 1),
        ("h100_sxm:3", "1x1x3", 3),
        (" H100_SXM:64 ", "1x8x8", 64),
        ("v5e", "v5e:2x2", 4),
        ("v5e:2x2", "v5e:2x2", 4),
        ("v5e:16x16", "v5e:16x16", 256),
        ("v5p:2x2x1", "v5p:2x2x1", 4),
        ("v3:2x2", "v3:2x2", 8),
        ("v4:2x2x2", "v4:2x2x2", 16),
    ],
)
def test_sizes(text, topology, count):
    one = target(text)
    assert (one.topology, one.num_devices) == (topology, count)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("h100_sxm:12", "from 1 to 8, or a multiple of it. Received: h100_sxm:12"),
        ("h100_sxm:0", "from 1 to 8, or a multiple of it. Received: h100_sxm:0"),
        ("h100_sxm:-8", "from 1 to 8, or a multiple of it. Received: h100_sxm:-8"),
        ("h100_sxm:2x2", "Write h100_sxm:8, for example"),
        ("h100_sxm:²", "from 1 to 8, or a multiple of it"),
        ("v5e:huge", "its topology in chips, such as 2x2 or 2x2x1. Received: v5e:huge"),
        ("v5e:4", "Write v5e:2x2, for example"),
        ("v5e:0x2", "Received: v5e:0x2"),
        ("h100:8", "Received: 'h100:8'. Did you mean h100_pcie or h100_sxm?"),
        ("h200_sxm", "Received: 'h200_sxm'. Did you mean h200?"),
        ("v5", "Received: 'v5'. Did you mean v5e or v5p?"),
        ("gb20", "Received: 'gb20'. Did you mean gb200?"),
        ("", "A target must be one of v100_sxm"),
        ("abacus:3", "Received: 'abacus:3'."),
    ],
)
def test_others_are_refused_in_one_sentence(text, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        target(text)
    assert len(str(caught.value).splitlines()) == 1


def test_without_a_similar_name_none_is_suggested():
    with pytest.raises(InputError) as caught:
        target("abacus")
    assert "Did you mean" not in str(caught.value)


def _numbers(description):
    """Returns the fields of a description as text, but for the capability's numbers."""
    fields = dict(re.findall(r"^ *(\w+): \"?([^\"\n]+)\"?$", description, re.MULTILINE))
    capability = re.search(r"cuda_compute_capability \{ (.*) \}", description)
    return fields | {"capability": capability[1].removesuffix(" minor: 0")}


def _values(description):
    values = {}
    for name, text in _numbers(description).items():
        is_number = re.fullmatch(r"[\d.]+", text) and text.count(".") < 2
        values[name] = float(text) if is_number else text
    return values


@facts.needs_facts
@pytest.mark.skipif(not H100.exists(), reason="no description of a GPU among the facts")
def test_the_description_of_a_gpu_is_the_published_one():
    published = _values(H100.read_text())
    assert len(published) > 20
    assert _values(target("h100_sxm").description) == published


@pytest.mark.parametrize("name", GPUS)
def test_descriptions_differ_in_what_gpus_differ(name):
    values = _values(target(name).description)
    assert values["device_memory_size"] == target(name).memory_bytes
    assert values["memory_bandwidth"] == target(name).memory_bandwidth
    assert values["device_description_str"] == values["name"]
    # What a block may use of a core's shared memory leaves some to the system.
    opt_in, of_core = values["shared_memory_per_block_optin"], values["shared_memory_per_core"]
    assert opt_in <= of_core <= 256 * 1024

"""Maps a GPU's name, as reported by its driver, to a family with published results."""

import re

# Names as nvidia-smi prints them, without the vendor. A variant with another chip, memory or link
# (A10G, H100 NVL, a laptop's RTX 4090) belongs to no family.
_FAMILIES = (
    (r"A100-SXM.*", "A100-SXM"),
    (r"A100[ -].*PCIe.*", "A100-PCIe"),
    (r"H100 80GB HBM3", "H100-SXM"),
    (r"H100 PCIe", "H100-PCIe"),
    (r"H200", "H200-SXM"),
    (r"V100-SXM.*", "V100-SXM"),
    (r"V100-PCIe.*", "V100-PCIe"),
    (r"P100-.*", "P100"),
    (r"P40", "P40"),
    (r"A10", "A10"),
    (r"A30", "A30"),
    (r"A40", "A40"),
    (r"L4", "L4"),
    (r"L40", "L40"),
    (r"L40S", "L40S"),
    (r"RTX A5000", "A5000"),
    (r"GeForce RTX 4090", "RTX4090"),
)


def accelerator_of(gpu: str) -> str | None:
    """Returns the family of a GPU, or None where it has no published results.

    Args:
      gpu: Name as reported by nvidia-smi and TensorFlow, such as "NVIDIA A100-SXM4-80GB".
    """
    chip = re.sub(r"^(NVIDIA|Tesla|\s)+", "", gpu.strip())
    for pattern, family in _FAMILIES:
        if re.fullmatch(pattern, chip, re.IGNORECASE):
            return family
    return None
